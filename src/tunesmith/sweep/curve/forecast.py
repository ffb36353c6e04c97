"""What more rows or a bigger model would bring, from the shares that are trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tunesmith.sweep.curve.asked import Asked, rows_in
from tunesmith.sweep.curve.power_law import LEVEL, Floats, PowerLaw, fit
from tunesmith.sweep.curve.values import Band, Bigger, Curve, Forecast, Point
from tunesmith.sweep.curve.verdict import verdict

FACTORS = (0.5, 1.0, 2.0, 4.0)
"""Of the rows that there are."""


def forecast(curve: Curve, asked: Asked) -> Curve:
    """The curve with what follows from its points. Raises SweepError where training lowered no loss."""
    law = law_of(curve)
    points = curve.points_of(curve.model)
    now = law.at(curve.num_rows)
    forecasts = tuple(
        _forecast(curve, law.at(rows), rows, now, _minutes(points, rows), luck=law.luck(number))
        for number, rows in enumerate(_rows(curve))
    )
    changes: dict[str, Any] = {
        "exponent": band(law.exponent),
        "floor": band(law.floor),
        "noise": band(law.noise),
        "forecasts": forecasts,
        "bigger": _bigger(curve, law, asked.bigger),
    }
    curve = curve.model_copy(update=changes)
    return curve.model_copy(update={"verdict": verdict(curve)})


def law_of(curve: Curve) -> PowerLaw:
    """Through the points of the recipe's model. Raises SweepError where training lowered no loss."""
    points = curve.points_of(curve.model)
    assert curve.base_loss is not None, "every share is trained"
    return fit(curve.base_loss, [point.num_rows for point in points], [point.eval_loss for point in points])


def band(draws: Floats) -> Band:
    """The middle of the draws, and where nine of ten lie."""
    low, value, high = np.quantile(draws, [(1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2])
    return Band(value=float(value), low=float(low), high=float(high))


def _rows(curve: Curve) -> list[int]:
    return [rows_in(factor, curve.num_rows) for factor in FACTORS]


def _forecast(
    curve: Curve, losses: Floats, num_rows: int, now: Floats, minutes: float | None, *, luck: Floats
) -> Forecast:
    return Forecast(
        factor=num_rows / curve.num_rows,
        num_rows=num_rows,
        eval_loss=band(losses + luck),
        gain=band(now - losses),
        minutes=minutes,
    )


def _minutes(points: Sequence[Point], num_rows: int) -> float | None:
    """Of the optimizer steps, at the speed of the largest share."""
    largest = max(points, key=lambda point: point.num_rows)
    if not largest.tokens_per_second:
        return None
    return num_rows * largest.train_tokens / largest.num_rows / largest.tokens_per_second / 60


def _bigger(curve: Curve, law: PowerLaw, name: str | None) -> Bigger | None:
    """The recipe's curve moved to where the bigger model ended on the same rows.

    Published curves of two sizes keep either their distance or, where sizes multiply (Zhang et al., 2024), the ratio of
    what lies above the floor. Half of the draws do the one; half the other, where it did not end below the floor.
    """
    if name is None:
        return None
    found = max(curve.points_of(name), key=lambda point: point.num_rows)
    beside = next(point for point in curve.points_of(curve.model) if point.num_rows == found.num_rows)
    there = law.at(found.num_rows)
    moved = found.eval_loss - beside.eval_loss + np.sqrt(2) * law.luck(len(FACTORS))
    ratio = 1 + moved / (there - law.floor)
    multiplies = (np.arange(len(there)) % 2 == 0) & (ratio > 0)

    def at(rows: int) -> Floats:
        losses = law.at(rows)
        moves: Floats = np.where(multiplies, law.floor + ratio * (losses - law.floor), losses + moved)
        return moves

    now = at(curve.num_rows)
    return Bigger(
        name=name,
        gain=band(law.at(curve.num_rows) - now),
        forecasts=tuple(
            _forecast(curve, at(rows), rows, now, _minutes([found], rows), luck=law.luck(len(FACTORS) + 1 + number))
            for number, rows in enumerate(_rows(curve))
        ),
    )
