"""The curve against curves whose exponents are known, of its own form and of the published ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from tunesmith.errors import SweepError
from tunesmith.sweep.curve.forecast import band
from tunesmith.sweep.curve.power_law import PowerLaw, fit

BASE = 4.5
SIZES = (400, 400, 800, 1600)
NOISE = 0.006
WHOLE = 8000
Curve = Callable[[float], float]


def rectified(size: float, exponent: float, floor: float, half: float) -> float:
    """Lin et al.: what is fitted."""
    return floor + (BASE - floor) / (1 + (size / half) ** exponent)


def power_with_floor(size: float, exponent: float, floor: float, at_400: float = 3.62) -> float:
    """Zhang et al.: a power of the rows alone, through a loss at 400 rows; it has no base."""
    return floor + (at_400 - floor) * (size / 400) ** -exponent


def shifted_power(size: float, exponent: float, floor: float, half: float) -> float:
    """A power of rows added to what pre-training is worth in rows."""
    return floor + (BASE - floor) * (1 + size / half) ** -exponent


def seen(curve: Curve, seed: int) -> PowerLaw:
    noise = NOISE * np.random.default_rng(seed).standard_normal(len(SIZES))
    return fit(BASE, SIZES, [curve(size) + off for size, off in zip(SIZES, noise, strict=True)])


@pytest.mark.parametrize(("exponent", "floor"), [(0.2, 2.8), (0.35, 3.0), (0.6, 3.3)])
def test_the_curve_of_its_own_form_is_found_again(exponent: float, floor: float) -> None:
    law = fit(BASE, SIZES, [rectified(size, exponent, floor, 20.0) for size in SIZES])
    found, at_the_end = band(law.exponent), band(law.at(WHOLE))
    assert found.low <= exponent <= found.high
    assert at_the_end.low <= rectified(WHOLE, exponent, floor, 20.0) <= at_the_end.high
    assert at_the_end.value == pytest.approx(rectified(WHOLE, exponent, floor, 20.0), abs=0.04)


def true_curves() -> list[Curve]:
    """Exponents from 0.1 to 0.7 and floors from near to far, of each form."""
    curves: list[Curve] = []
    for exponent in (0.1, 0.18, 0.28, 0.45, 0.7):
        for floor in (2.2, 2.9, 3.3):
            curves.append(partial(power_with_floor, exponent=exponent, floor=floor))
            curves.append(partial(rectified, exponent=exponent, floor=floor, half=10.0 / exponent))
            curves.append(partial(shifted_power, exponent=exponent, floor=floor, half=5.0 / exponent))
    return curves


def test_the_interval_holds_as_often_as_it_says() -> None:
    """Nine runs in ten of the whole, and nine gains in ten of four times as many rows; curves of other forms too."""
    losses, gains = [], []
    for seed, curve in enumerate(true_curves()):
        law = seen(curve, seed)
        run = curve(WHOLE) + NOISE * np.random.default_rng(1000 + seed).standard_normal()
        ahead, gain = band(law.at(WHOLE) + law.luck(0)), band(law.at(WHOLE) - law.at(4 * WHOLE))
        losses.append(ahead.low <= run <= ahead.high)
        gains.append(gain.low <= curve(WHOLE) - curve(4 * WHOLE) <= gain.high)
    assert np.mean(losses) >= 0.85
    assert np.mean(gains) >= 0.8


def test_the_interval_widens_with_distance_and_with_noise() -> None:
    def width(law: PowerLaw, size: float) -> float:
        found = band(law.at(size))
        return found.high - found.low

    calm = seen(lambda size: rectified(size, 0.3, 3.0, 20.0), 1)
    assert width(calm, 1600) < width(calm, 8000) < width(calm, 32000)
    rough = fit(BASE, SIZES, [3.67, 3.57, 3.58, 3.46])
    assert width(rough, 8000) > width(calm, 8000)


def test_the_same_input_gives_the_same_forecast() -> None:
    first, again = (seen(lambda size: rectified(size, 0.3, 3.0, 20.0), 1) for _ in range(2))
    assert np.array_equal(first.at(WHOLE), again.at(WHOLE))


def test_every_draw_falls_towards_a_floor_that_is_no_loss_below_zero() -> None:
    law = seen(lambda size: rectified(size, 0.1, 0.5, 20.0), 3)
    assert (law.floor >= 0).all()
    assert (law.at(1) <= BASE).all()
    assert (law.at(8000) >= law.at(16000)).all()


@pytest.mark.parametrize("losses", [(4.5, 4.5, 4.5, 4.5), (4.6, 4.7, 4.8, 5.0)])
def test_a_loss_that_did_not_fall_makes_no_curve(losses: tuple[float, ...]) -> None:
    with pytest.raises(SweepError, match="did not lower the held-out loss"):
        fit(BASE, SIZES, losses)
