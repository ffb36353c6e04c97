"""Spikes of the loss are found and marked; noise is not."""

from __future__ import annotations

import math
import random

from tunesmith.run.spikes import Spikes, loss_spikes


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


def test_told_one_by_one_they_are_the_same() -> None:
    spikes = Spikes()
    assert [spikes.stands_out(loss) for loss in [3.0, 3.1, 2.9, 3.0, 3.1]] == [False] * 5
    assert spikes.usual == 3.0
    assert spikes.stands_out(5.0)
    assert spikes.usual == 3.0
