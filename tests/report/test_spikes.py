"""Spikes of the loss are found and marked; noise is not."""

from __future__ import annotations

import math
import random

from tunesmith.report.figures import loss_figure
from tunesmith.report.spikes import loss_spikes
from tunesmith.run.artefacts import MetricsLine


def test_a_spike_is_marked_and_noise_is_not() -> None:
    generator = random.Random(7)
    losses = [3 * math.exp(-i / 100) + 1 + generator.gauss(0, 0.05) for i in range(300)]
    assert loss_spikes(losses) == []
    losses[150] = 4.0
    losses[151] = 3.8
    assert loss_spikes(losses) == [150, 151]


def test_a_flat_loss_and_the_first_steps_are_no_spikes() -> None:
    assert loss_spikes([2.0] * 50 + [2.1] + [2.0] * 5) == []
    assert loss_spikes([9.0, 1.0, 8.0, 2.0]) == []
    assert loss_spikes([]) == []


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
