"""The tables of a report as plain rows of text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from tunesmith.recipe import LoraSection
from tunesmith.report.artefacts import Artefacts
from tunesmith.report.charts import Dot, strip
from tunesmith.report.numbers import MISSING, by_unit, fixed, number, percent, signed
from tunesmith.report.verdict import MUCH
from tunesmith.run.artefacts import Comparison, DataAccount, Finding, GroupLoss, Interval, Plan, Result, Score
from tunesmith.units import format_bytes, format_seconds

Level = Literal["good", "note", "bad"]
Scores = Mapping[str, Score]
Side = Literal["base", "tuned", "real"]
SIDES: tuple[Side, ...] = ("base", "tuned", "real")


@dataclass(frozen=True)
class Tile:
    """A key number; `before` is the base's."""

    label: str
    value: str
    before: str = ""
    note: str = ""


@dataclass(frozen=True)
class ScoreRow:
    """One score: its name, what it means, and its value and interval for each side."""

    title: str
    meaning: str
    values: dict[str, str]
    ranges: dict[str, str]
    reading: str
    level: Level
    picture: Markup


@dataclass(frozen=True)
class Row:
    """A name, a value and a remark."""

    name: str
    value: str
    remark: str = ""


def tiles(artefacts: Artefacts) -> list[Tile]:
    """The numbers that people look for first."""
    result = artefacts.result
    scores: Scores = artefacts.compare.scores if artefacts.compare is not None else {}
    found = [
        _result_tile(result, scores, "Held-out loss", "eval_loss", "heldout_loss", "nats per token"),
        _result_tile(result, scores, "Perplexity", "eval_perplexity", "heldout_perplexity", "tokens"),
        _result_tile(result, scores, "Bits per byte", "eval_bits_per_byte", "heldout_bits_per_byte", "bits"),
        _result_tile(result, scores, "Token accuracy", "eval_token_accuracy", "heldout_token_accuracy", "share"),
        _test_tile(result),
        _score_tile(scores, "Told from real", "style_auc", "AUC, 0.50 is best"),
        _score_tile(scores, "Texts that copy", "copied_texts", f"real texts: {_value(scores, 'copied_texts', 'real')}"),
    ]
    if result is not None:
        speed = f"{fixed(result.tokens_per_second, 0)} supervised tokens/s"
        found.append(Tile("Training time", format_seconds(result.train_seconds), note=speed))
    if result is not None and result.peak_bytes:
        found.append(Tile("Peak memory", format_bytes(result.peak_bytes)))
    return [tile for tile in found if tile is not None]


def _result_tile(result: Result | None, scores: Scores, label: str, key: str, score: str, unit: str) -> Tile | None:
    value, before = (by_unit(getattr(result, name, None), unit) for name in (key, f"{key}_base"))
    value = _value(scores, score, "tuned") if value == MISSING else value
    before = _value(scores, score, "base") if before == MISSING else before
    if value == MISSING:
        unmeasured = key == "eval_loss" and before != MISSING
        return Tile(label, "not measured", before) if unmeasured else None
    return Tile(label, value, before if before != MISSING else "")


def _test_tile(result: Result | None) -> Tile | None:
    loss = None if result is None else number(result.test_loss)
    return Tile("Test loss", fixed(loss, 3), note="scored once, at the end") if loss is not None else None


def _score_tile(scores: Scores, label: str, name: str, note: str) -> Tile | None:
    value = _value(scores, name, "tuned")
    return Tile(label, value, _value(scores, name, "base"), note) if value != MISSING else None


def _value(scores: Scores, name: str, side: Side) -> str:
    score = scores.get(name)
    return _shown_value(score, side) if score is not None else MISSING


def _shown_value(score: Score, side: Side) -> str:
    found: Interval | None = getattr(score, side)
    return by_unit(found.value, score.unit) if found is not None else MISSING


def score_rows(comparison: Comparison | None) -> list[ScoreRow]:
    """Every score of compare.json with a picture and a reading in words."""
    return [_score_row(score) for score in comparison.scores.values()] if comparison is not None else []


def _score_row(score: Score) -> ScoreRow:
    values: dict[str, str] = {side: _shown_value(score, side) for side in SIDES}
    dots = [dot for side in SIDES if (dot := Dot.of(getattr(score, side), side)) is not None]
    reading, level = read_score(score)
    told = ", ".join(f"{side} {value}" for side, value in values.items() if value != MISSING)
    return ScoreRow(
        score.title,
        score.meaning,
        values,
        {side: _range(getattr(score, side), score.unit) for side in SIDES},
        reading,
        level,
        strip(dots, description=f"{score.title}: {told}"),
    )


def _range(interval: Interval | None, unit: str) -> str:
    if interval is None or interval.low is None or interval.high is None or interval.low == interval.high:
        return ""
    return f"{by_unit(interval.low, unit)} to {by_unit(interval.high, unit)}"


def read_score(score: Score) -> tuple[str, Level]:
    """What a score says, in two or three words. Nothing is called a change whose interval holds zero."""
    base, tuned, real = (number(side.value) if side else None for side in (score.base, score.tuned, score.real))
    if base is None or tuned is None:
        return "", "note"
    low, high = (number(score.change.low), number(score.change.high)) if score.change else (None, None)
    if low is None or high is None:
        low = high = tuned - base
    if score.better == "at most real" and real is not None:
        return _against_real(score, tuned, real)
    if low <= 0 <= high:
        return "no clear change", "note"
    if score.better == "real" and real is not None:
        nearer = abs(tuned - real) < abs(base - real)
        return ("nearer to real", "good") if nearer else ("further from real", "bad")
    if score.better == "lower":
        return ("better", "good") if high < 0 else ("worse", "bad")
    if score.better == "higher":
        return ("better", "good") if low > 0 else ("worse", "bad")
    return "changed", "note"


def _against_real(score: Score, tuned: float, real: float) -> tuple[str, Level]:
    above = number(score.gap.low) if score.gap is not None else None
    if tuned <= real:
        return "no more than real", "note" if score.unit == "share" and tuned >= MUCH else "good"
    if above is not None and above > 0:
        return "more than real", "bad"
    return "not clearly more than real", "note"


def forecast_rows(plan: Plan | None) -> list[tuple[str, str, str, str]]:
    """What was planned, what was measured, and by how much it was off."""
    if plan is None:
        return []
    shown: dict[str, tuple[str, Callable[[float], str]]] = {
        "peak_bytes": ("Peak memory", format_bytes),
        "train_seconds": ("Training time", format_seconds),
        "total_seconds": ("Whole run", format_seconds),
        "tokens_per_second": ("Supervised tokens per second", lambda value: fixed(value, 0)),
    }
    rows = []
    for key, (name, show) in shown.items():
        planned, took = number(getattr(plan.predicted, key, None)), number(getattr(plan.measured, key, None))
        if planned is None and took is None:
            continue
        off = signed(percent(took / planned - 1)) if planned and took is not None else MISSING
        before, after = (MISSING if value is None else show(value) for value in (planned, took))
        rows.append((name, before, after, off))
    return rows


def plan_rows(plan: Plan | None) -> list[Row]:
    """Each decided value with its reason."""
    if plan is None:
        return []
    return [
        Row(name.replace("_", " "), _plain(value), plan.reasons.get(name, "")) for name, value in plan.decided().items()
    ]


def data_rows(data: DataAccount) -> list[Row]:
    """The ledger: what was read, and what became of it."""
    rows: list[tuple[str, object, str]] = [
        ("Rows are", data.how or data.kind, ""),
        ("Rows read", data.rows_read, ""),
        ("Empty, left out", data.empty, ", ".join(data.examples.empty)),
        ("Unreadable, left out", data.bad_rows, ", ".join(data.examples.bad_rows)),
        ("Exact duplicates", data.duplicates, "kept on one side of the split"),
        ("Duplicates on both sides of the split", data.straddling_duplicates, ""),
        ("Too long, dropped", data.dropped.too_long, ""),
        ("Left out by --small or a weight", data.dropped.by_weight_or_small, ""),
        ("Truncated", data.truncated, f"{fixed(data.truncated_tokens, 0)} tokens lost" if data.truncated else ""),
        ("Longest document allowed", data.max_length, "tokens"),
        ("Split by", data.split_by, ""),
        ("Encoding", data.encoding, ""),
    ]
    return [Row(name, _plain(value), remark) for name, value, remark in rows if value not in (None, "")]


def split_rows(data: DataAccount) -> list[tuple[str, str, str, str, str]]:
    """Documents, tokens, supervised tokens and fingerprint of each split."""
    names = {"train": "training", "eval": "held-out", "test": "test"}
    return [
        (
            names.get(name, name),
            _plain(split.documents),
            _plain(split.tokens),
            _plain(split.targets),
            split.fingerprint,
        )
        for name, split in data.splits.items()
        if split.documents
    ]


def findings(data: DataAccount, *, fine: bool) -> list[Finding]:
    """What the audit found: that all is well (`fine`), or else what blocks or warns, what blocks first."""
    kept = [finding for finding in data.findings if (finding.status == "fine") == fine]
    return sorted(kept, key=lambda finding: (finding.status != "blocks", finding.number))


def group_rows(rows: Sequence[GroupLoss]) -> list[tuple[str, ...]]:
    """Loss by slice or kind: name, documents, base, tuned, change and its interval."""
    return [
        (
            row.name or "(empty)",
            _plain(row.num_documents),
            fixed(row.base.value, 3),
            fixed(row.tuned.value, 3),
            signed(fixed(row.change.value, 3)),
            _range(row.change, "nats per token"),
        )
        for row in rows
    ]


def fact_rows(artefacts: Artefacts) -> list[Row]:
    """Where the run comes from: fingerprints and environment."""
    return [Row(name, value) for name, value in _facts(artefacts) if value]


def _facts(artefacts: Artefacts) -> Iterator[tuple[str, str | None]]:
    recipe, compare, data = artefacts.recipe, artefacts.compare, artefacts.data
    if recipe is not None:
        yield "Base model", recipe.model.name
    if compare is not None:
        yield "Revision of the base", compare.base.revision
        yield "Licence of the base", compare.base.licence
        yield "Tuned model", "an adapter on the base" if compare.tuned.adapter else "full weights"
    if data is not None:
        yield "Data fingerprint", data.fingerprint
        yield "Tokenizer fingerprint", data.tokenizer
    if compare is not None:
        yield from compare.environment.items()


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return fixed(value, 0)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, LoraSection):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value)
    return MISSING if value is None else str(value)
