"""The rate that follows from a test whose losses are known."""

from __future__ import annotations

import pytest

from tunesmith.errors import SweepError
from tunesmith.sweep.lr_find import NUM_STEPS, judge, rates, smoothed


def test_rates_grow_by_one_factor() -> None:
    tried = rates()
    assert (len(tried), tried[0]) == (NUM_STEPS, 1e-6)
    assert tried[-1] == pytest.approx(1e-1)
    assert tried[31] / tried[30] == pytest.approx(tried[1] / tried[0])


def test_the_rate_stands_a_tenth_below_the_lowest_loss() -> None:
    tried = rates()
    losses = [5 - 0.05 * number if number < 40 else 3 + 0.5 * (number - 40) for number in range(50)]
    found = judge(tried, losses)
    lowest = min(range(50), key=found.smooth.__getitem__)
    assert found.suggestion == pytest.approx(tried[lowest] / 10, rel=0.06)
    assert len(found.rates) == 50


@pytest.mark.parametrize("losses", [[5.0] * 5, [3 + 0.1 * number for number in range(30)]])
def test_losses_that_do_not_fall_propose_nothing(losses: list[float]) -> None:
    with pytest.raises(SweepError, match="did not fall"):
        judge(rates(), losses)


def test_smoothing_begins_without_a_pull() -> None:
    assert smoothed([4.0, 4.0, 4.0]) == pytest.approx((4.0, 4.0, 4.0))
