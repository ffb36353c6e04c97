"""The charts of a report, each with a caption that says in words what the picture shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from markupsafe import Markup

from tunesmith.redact import redact
from tunesmith.report.charts import (
    MIN_CURVE,
    Dot,
    Format,
    Point,
    Series,
    dot_chart,
    histogram,
    line_chart,
    smooth,
    whole,
)
from tunesmith.report.numbers import fixed, number, short, signed
from tunesmith.run.artefacts import DataAccount, GroupLoss, MetricsLine, Result
from tunesmith.run.spikes import loss_spikes
from tunesmith.units import format_bytes

WIDE = (860.0, 320.0)
NARROW = (420.0, 260.0)
MAX_GROUPS = 20


@dataclass(frozen=True)
class Figure:
    """A chart with its heading and caption; `narrow` is drawn for phones when the wide one would be too small."""

    heading: str
    caption: str
    chart: Markup
    narrow: Markup | None = None
    look: str = ""


def loss_figure(metrics: Sequence[MetricsLine], result: Result | None) -> Figure | None:
    """Training and held-out loss over steps, the base's held-out loss as a level."""
    train, held_out = points(metrics, "loss"), points(metrics, "eval_loss")
    if not train and not held_out:
        return None
    if result is not None and held_out and held_out[-1][0] == result.steps and number(result.eval_loss) is not None:
        held_out[-1] = (held_out[-1][0], float(result.eval_loss or 0))  # of the weights as they were written
    base = None if result is None else number(result.eval_loss_base)
    if base is None and held_out and held_out[0][0] == 0:
        base = held_out[0][1]
    spikes = [train[position] for position in loss_spikes([loss for _, loss in train])]
    caption = _loss_caption(train, held_out, base) + _spike_caption(spikes)
    smoothed = smooth(train)
    lines = [
        Series("training", smoothed, "train", faint=train if smoothed != train else (), marked=spikes),
        Series("held-out", held_out, "eval", markers=True),
    ]
    charts = [
        line_chart(
            lines,
            title="Loss over training steps",
            description=caption,
            y_format=short,
            size=size,
            baseline=(base, "base") if base is not None else None,
        )
        for size in (WIDE, NARROW)
    ]
    return Figure("Loss", caption, charts[0], charts[1], "wide")


def _loss_caption(train: list[Point], held_out: list[Point], base: float | None) -> str:
    parts = []
    if len(held_out) > 1:
        start = f"from {fixed(base, 3)} (the base) " if base is not None else ""
        best = min(held_out, key=lambda point: point[1])
        parts.append(
            f"Held-out loss went {start}to {fixed(held_out[-1][1], 3)}; "
            f"the lowest was {fixed(best[1], 3)} at step {whole(best[0])}."
        )
    elif base is not None:
        parts.append(f"Held-out loss of the base: {fixed(base, 3)}; no later evaluation yet.")
    if train:
        parts.append(f"Training loss went from {fixed(train[0][1], 3)} to {fixed(smooth(train)[-1][1], 3)}.")
    return " ".join(parts)


def _spike_caption(spikes: list[Point]) -> str:
    if not spikes:
        return ""
    steps = ", ".join(whole(step) for step, _ in spikes[:5]) + (
        f" and {len(spikes) - 5} more" if len(spikes) > 5 else ""
    )
    return f" Circles mark losses far above those before them: step {steps}."


def curve_figures(metrics: Sequence[MetricsLine]) -> list[Figure]:
    """Learning rate, gradient norm, throughput and memory: those that were recorded, as a curve where it is one."""
    fed = points(metrics, "fed_tokens_per_second")
    wanted: list[tuple[str, str, Format, bool, Callable[[list[Point]], str]]] = [
        ("learning_rate", "Learning rate", short, True, lambda found: f"Highest {short(max(y for _, y in found))}."),
        ("grad_norm", "Gradient norm", short, True, _norm_caption),
        ("tokens_per_second", "Throughput", short, True, partial(_speed_caption, fed=fed)),
        (
            "peak_bytes",
            "Peak memory",
            format_bytes,
            True,
            lambda found: f"{format_bytes(max(y for _, y in found))} at most.",
        ),
        ("eval_token_accuracy", "Token accuracy", short, False, _accuracy_caption),
        ("eval_bits_per_byte", "Bits per byte", short, False, _bits_caption),
    ]
    figures = []
    for key, heading, y_format, from_zero, describe in wanted:
        found = points(metrics, key)
        if len(found) < 2:
            continue
        if len(found) < MIN_CURVE:
            figures.append(Figure(heading, describe(found), Markup("")))
            continue
        evaluation = key.startswith("eval_")
        chart = line_chart(
            [Series("", found, "eval" if evaluation else "train", markers=evaluation)],
            title=f"{heading} over training steps",
            description=describe(found),
            y_format=y_format,
            from_zero=from_zero,
            size=(420, 200),
        )
        figures.append(Figure(heading, describe(found), chart))
    return figures


def _norm_caption(found: list[Point]) -> str:
    highest = max(found, key=lambda point: point[1])
    peak = f"highest {fixed(highest[1], 2)} at step {whole(highest[0])}"
    return f"Before clipping; median {fixed(_median(found), 2)}, {peak}."


def _speed_caption(found: list[Point], fed: list[Point]) -> str:
    also = f" With the tokens that are only read: {whole(_median(fed))}." if fed else ""
    return f"Supervised tokens per second; median {whole(_median(found))}.{also}"


def _accuracy_caption(found: list[Point]) -> str:
    return f"Held-out tokens guessed right: {found[0][1]:.1%} at the first evaluation, {found[-1][1]:.1%} at the last."


def _bits_caption(found: list[Point]) -> str:
    return f"Held-out: {fixed(found[0][1], 3)} at the first evaluation, {fixed(found[-1][1], 3)} at the last."


def change_figure(rows: Sequence[GroupLoss], heading: str, of_what: str) -> Figure | None:
    """Change of the loss by group, with intervals around zero: left is better."""
    changes = [(redact(row.name), dot) for row in rows if (dot := Dot.of(row.change, "tuned")) is not None][:MAX_GROUPS]
    if not changes:
        return None
    changes.sort(key=lambda change: change[1].value)
    worse = sum(dot.low > 0 for _, dot in changes)
    (best, first), (worst, last) = changes[0], changes[-1]
    caption = (
        "Change of the loss, tuned minus base, with 95% intervals; left of zero is better. "
        f"Best: {best} ({signed(fixed(first.value, 2))}); least good: {worst} ({signed(fixed(last.value, 2))}). "
        f"Clearly worse in {worse or 'none'} of {len(changes)}."
    )
    chart = dot_chart(
        [(name, [dot]) for name, dot in changes],
        title=f"Change of the loss by {of_what}",
        description=caption,
        x_format=lambda value: signed(fixed(value, 2)) if value else "0",
        x_label="change of the loss (nats per token)",
        zero=True,
    )
    return Figure(heading, caption, chart)


def length_figure(data: DataAccount) -> Figure | None:
    """Training rows by length in tokens."""
    edges, counts = data.length_histogram.edges, data.length_histogram.counts
    if len(edges) != len(counts) + 1 or not sum(counts):
        return None
    longest = max(edge for edge, count in zip(edges, counts, strict=False) if count)
    caption = f"{whole(sum(counts))} training rows by tokens; the longest bar begins at {whole(longest)}"
    caption += f", the limit is {whole(data.max_length)}."
    chart = histogram(
        [(short(edge), count) for edge, count in zip(edges[:-1], counts, strict=True)],
        title="Lengths of the training rows",
        description=caption,
        x_label="tokens",
    )
    return Figure("Lengths", caption, chart)


def points(metrics: Sequence[MetricsLine], key: str) -> list[Point]:
    """(step, value) of the lines that hold a finite value; of a step written twice the later one."""
    found: dict[float, float] = {}
    for line in metrics:
        value = number(getattr(line, key))
        if value is not None:
            found[line.step] = value
    return sorted(found.items())


def _median(found: list[Point]) -> float:
    ordered = sorted(y for _, y in found)
    return ordered[len(ordered) // 2]
