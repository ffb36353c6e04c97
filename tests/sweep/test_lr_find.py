"""The rate that follows from a test whose losses are known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tunesmith.errors import SweepError
from tunesmith.sweep.lr_find import HIGHEST, LOWEST, NUM_STEPS, judge, rates
from tunesmith.sweep.table import rate_lines
from tunesmith.training.rate_range import ran_away, smoothed


def test_rates_grow_by_one_factor() -> None:
    tried = rates()
    assert (len(tried), tried[0]) == (NUM_STEPS, LOWEST)
    assert tried[-1] == pytest.approx(HIGHEST)
    assert tried[21] / tried[20] == pytest.approx(tried[1] / tried[0])


def test_the_rate_stands_a_tenth_below_the_lowest_loss() -> None:
    tried = rates()
    losses = [5 - 0.05 * number if number < 25 else 3.75 + 0.5 * (number - 25) for number in range(32)]
    found = judge(tried, losses)
    assert found.suggestion == pytest.approx(tried[found.lowest] / 10, rel=0.06)
    assert 22 <= found.lowest <= 28
    assert len(found.rates) == 32


@pytest.mark.parametrize("losses", [[5.0] * 5, [3 + 0.1 * number for number in range(30)]])
def test_losses_that_do_not_fall_propose_nothing(losses: list[float]) -> None:
    with pytest.raises(SweepError, match="did not fall"):
        judge(rates(), losses)


def test_smoothing_begins_without_a_pull() -> None:
    assert smoothed([4.0, 4.0, 4.0]) == pytest.approx((4.0, 4.0, 4.0))


def test_the_test_ends_where_the_loss_ran_away_and_not_before() -> None:
    falling = [5 - 0.05 * number for number in range(25)]
    noisy = [loss * (1.08 if number % 3 else 0.93) for number, loss in enumerate(falling)]
    assert not any(ran_away(noisy[:number]) for number in range(1, 26))
    rising = [*noisy, *(4.0 + 0.6 * number for number in range(8))]
    ended = next(number for number in range(1, len(rising) + 1) if ran_away(rising[:number]))
    assert 25 < ended <= 31
    risen = [*falling, *[4.8] * 10]
    assert max(risen[25:]) < 1.5 * min(risen), "no single step stands out"
    assert ran_away(risen)
    assert ran_away([5.0, 4.9, 7.5])
    assert not ran_away([5.0, 4.0, 4.5])


def test_what_is_said_has_the_curve_the_rate_and_the_reason() -> None:
    tried = rates()[:30]
    losses = [5 - 0.05 * number if number < 25 else 3.75 + 0.5 * (number - 25) for number in range(30)]
    found = judge(tried, losses)
    lines = list(rate_lines(replace(found, num_tokens=7680, seconds=71.0)))
    assert sum(line.startswith("rate ") for line in lines) == 15
    assert lines[-2] == f"30 steps of 7,680 tokens together, 71 s; ran away at {tried[-1]:.1e}"
    assert lines[-1].startswith(f"train.learning_rate: {found.suggestion:g}   (a tenth of ")
    assert list(rate_lines(replace(found, method="lora")))[-1].startswith(
        "One step a rate flatters high rates for lora"
    )
