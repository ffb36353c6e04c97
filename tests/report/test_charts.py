"""Charts keep every value in view, lose no spike, and escape every text."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from itertools import pairwise

import pytest

from tunesmith.report.charts import Dot, Series, dot_chart, histogram, line_chart, nice_ticks, smooth, strip, thin
from tunesmith.report.figures import curve_figures, loss_figure
from tunesmith.report.numbers import by_unit, fixed, percent, short, signed
from tunesmith.run.artefacts import MetricsLine, Result

HOSTILE = '<script>alert(1)</script>"&'


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (2.31, 4.87), (-3, 7), (1e-6, 3e-6), (0, 123456), (5, 5), (0, 0), (-2e-4, 2e-4)]
)
def test_ticks_enclose_the_values_and_are_few(low: float, high: float) -> None:
    ticks = nice_ticks(low, high, 5)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 2 <= len(ticks) <= 9
    assert len({short(tick) for tick in ticks}) == len(ticks)


def test_ticks_of_nonsense_do_not_raise() -> None:
    assert nice_ticks(float("nan"), 1, 5) == [0.0, 1.0]


def test_thinning_keeps_the_spikes_and_the_order() -> None:
    points = [(float(i), 0.0) for i in range(10_000)]
    points[1234] = (1234.0, 99.0)
    points[7777] = (7777.0, -99.0)
    kept = thin(points)
    assert len(kept) <= 401
    assert (1234.0, 99.0) in kept
    assert (7777.0, -99.0) in kept
    assert kept == sorted(kept)


def test_smoothing_follows_the_values_from_the_first() -> None:
    constant = [(float(i), 3.0) for i in range(100)]
    assert all(y == pytest.approx(3.0) for _, y in smooth(constant))
    assert smooth(constant[:5]) == constant[:5]


def coordinates(svg: str) -> list[tuple[float, float]]:
    paths = re.findall(r' d="M([^"]+)"', svg)
    return [tuple(map(float, pair.split(" "))) for path in paths for pair in path.split("L")]  # type: ignore[misc]


def test_a_line_chart_draws_inside_its_frame_and_says_what_it_shows() -> None:
    chart = line_chart(
        [Series("training", [(1, 5.0), (2, 4.0), (3, 9.5)], "train"), Series("held-out", [(0, 5.5)], "eval", True)],
        title="Loss",
        description="Fell.",
        y_format=short,
        baseline=(6.0, "base"),
    )
    root = ElementTree.fromstring(chart)
    assert root.get("role") == "img"
    assert root.get("aria-label") == "Loss. Fell."
    assert all(0 <= x <= 420 and 0 <= y <= 250 for x, y in coordinates(chart))
    texts = [element.text for element in root.iter("text")]
    assert {"training", "held-out", "base", "step"} <= set(texts)


def test_labels_at_line_ends_never_overlap() -> None:
    same = [(0.0, 1.0), (10.0, 1.0)]
    chart = line_chart(
        [Series(name, same, "train") for name in ("a", "b", "c")],
        title="",
        description="",
        y_format=short,
        baseline=(1.0, "d"),
    )
    heights = sorted(float(y) for y in re.findall(r'class="label [^"]*" x="[^"]+" y="([^"]+)"', chart))
    assert len(heights) == 4
    assert all(below - above >= 14.9 for above, below in pairwise(heights))
    assert heights[-1] <= 250


def test_every_chart_escapes_its_texts() -> None:
    dot = Dot(0.5, 0.2, 0.9, "tuned")
    charts = [
        line_chart([Series(HOSTILE, [(0, 1), (1, 2)])], title=HOSTILE, description=HOSTILE, y_format=lambda _: HOSTILE),
        dot_chart([(HOSTILE, [dot])], title=HOSTILE, description=HOSTILE, x_format=short, x_label=HOSTILE, zero=True),
        histogram([(HOSTILE, 3)], title=HOSTILE, description=HOSTILE, x_label=HOSTILE),
        strip([dot], description=HOSTILE),
    ]
    for chart in charts:
        assert "<script" not in chart
        assert ElementTree.fromstring(chart).get("aria-label", "").endswith(HOSTILE)


def test_charts_without_values_are_empty() -> None:
    assert line_chart([Series("a", [])], title="", description="", y_format=short) == ""
    assert dot_chart([], title="", description="", x_format=short, x_label="") == ""
    assert histogram([], title="", description="", x_label="") == ""
    assert strip([], description="") == ""


def test_numbers_read_well() -> None:
    assert fixed(-1234.5, 1) == "−1,234.5"
    assert fixed(-0.0001, 2) == "0.00"
    assert fixed(None, 2) == fixed(float("nan"), 2) == fixed("3", 2) == "–"
    assert (percent(0.031), percent(0.5), percent(0), percent(1)) == ("3.1%", "50%", "0%", "100%")
    assert (signed("0.2"), signed("−0.2"), signed("–")) == ("+0.2", "−0.2", "–")
    assert (short(2e-4), short(12000), short(3.5), short(0)) == ("2e−4", "12k", "3.5", "0")
    assert (by_unit(0.684, "AUC"), by_unit(0.016, "share"), by_unit(3.0517, "nats per token")) == (
        "0.68",
        "1.6%",
        "3.052",
    )


def test_the_loss_chart_marks_spikes_and_names_their_steps() -> None:
    calm = [MetricsLine(step=step, epoch=0.0, time=0.0, loss=3.0 + 0.01 * (step % 3)) for step in range(1, 41)]
    spike = calm[30].model_copy(update={"loss": 5.0})
    figure, quiet = loss_figure([*calm[:30], spike, *calm[31:]], None), loss_figure(calm, None)
    assert figure is not None
    assert quiet is not None
    assert "Circles mark losses far above those before them: step 31." in figure.caption
    assert figure.chart.count("<circle") == 1
    assert "<circle" not in quiet.chart
    assert "Circles" not in quiet.caption


@pytest.mark.parametrize("num_points", [1, 2])
def test_two_points_are_dots_and_no_curve(num_points: int) -> None:
    points = [(float(step), 1.0 + step) for step in range(num_points)]
    chart = line_chart([Series("held-out", points, "eval")], title="Loss", description="Falls.", y_format=short)
    assert "<path" not in chart
    assert chart.count("<circle") == num_points
    assert "<path" in line_chart(
        [Series("", [*points, (9.0, 1.0), (10.0, 2.0)])], title="", description="", y_format=short
    )


def test_a_measure_with_two_values_is_told_in_words() -> None:
    lines = [
        MetricsLine(step=step, epoch=0.0, time=0.0, eval_loss=1.0, eval_token_accuracy=0.1 * step) for step in (1, 3)
    ]
    figures = {figure.heading: figure for figure in curve_figures(lines)}
    assert figures["Token accuracy"].chart == ""
    assert "10.0% at the first evaluation, 30.0% at the last" in figures["Token accuracy"].caption


def test_the_last_held_out_loss_is_that_of_the_written_weights(new_result: Callable[..., Result]) -> None:
    lines = [MetricsLine(step=step, epoch=0.0, time=0.0, eval_loss=5.0 - 0.1 * step) for step in (0, 3, 5)]
    figure = loss_figure(lines, new_result(eval_loss=4.512, eval_loss_base=5.0))
    assert figure is not None
    assert "Held-out loss went from 5.000 (the base) to 4.512" in figure.caption
