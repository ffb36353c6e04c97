"""Uncertainty: bootstrap intervals over prompts (Efron, 1979) and Wilson's interval for a share (Wilson, 1927)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tunesmith.run.artefacts import Interval

NUM_RESAMPLES = 1000
LEVEL = 0.95
_Z = 1.959963984540054

Floats = NDArray[np.float64]
Weights = NDArray[np.float64]


def interval(value: float, low: float, high: float) -> Interval:
    """An interval whose numbers that are not finite are None: they cannot be told."""

    def known(number: float) -> float | None:
        return float(number) if math.isfinite(number) else None

    return Interval(value=known(value), low=known(low), high=known(high))


class Bootstrap:
    """Draws prompts with replacement, the same draws for every score, so that differences are paired.

    `weights` has shape [resamples, prompts]: how often each prompt was drawn.
    """

    def __init__(self, num_prompts: int, seed: int = 0) -> None:
        draws = np.random.default_rng(seed).integers(0, num_prompts, (NUM_RESAMPLES, num_prompts))
        self.num_prompts = num_prompts
        self.weights: Weights = np.stack([np.bincount(draw, minlength=num_prompts) for draw in draws]).astype(float)

    def interval(
        self, statistic: Callable[[Weights], Floats], *, bounds: tuple[float, float] = (-math.inf, math.inf)
    ) -> Interval:
        """Interval of a statistic that takes weights [R, prompts] and gives [R] values.

        Centred on the estimate: a score such as distinct-n falls when prompts repeat, so the raw quantiles of its
        resamples lie below it. Resamples without a value (no words drawn) are left out.
        """
        value = float(statistic(np.ones((1, self.num_prompts)))[0])
        resampled = statistic(self.weights)
        resampled = resampled[np.isfinite(resampled)]
        if not math.isfinite(value) or not len(resampled):
            return interval(value, math.nan, math.nan)
        shift = value - float(resampled.mean())
        low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) + shift
        return interval(value, np.clip(low, *bounds), np.clip(high, *bounds))


def weighted_mean(values: Floats, sizes: Floats | None = None) -> Callable[[Weights], Floats]:
    """The statistic sum(values) / sum(sizes) of the prompts drawn. Without sizes: the mean of the finite values."""
    if sizes is None:
        sizes = np.isfinite(values).astype(float)
        values = np.where(np.isfinite(values), values, 0.0)

    def statistic(weights: Weights) -> Floats:
        total = weights @ sizes
        with np.errstate(invalid="ignore", divide="ignore"):
            result: Floats = np.where(total > 0, (weights @ values) / total, np.nan)
        return result

    return statistic


def wilson_interval(successes: float, trials: int) -> tuple[float, float, float]:
    """Share of successes, low and high of Wilson's score interval: sensible for few trials and shares of 0 or 1 too.

    `successes` may count ties as a half. No trials: a share of 0.5 that could be anything.
    """
    if trials == 0:
        return 0.5, 0.0, 1.0
    share = successes / trials
    spread = _Z * math.sqrt(share * (1 - share) / trials + _Z**2 / (4 * trials**2))
    centre, scale = share + _Z**2 / (2 * trials), 1 + _Z**2 / trials
    low, high = (centre - spread) / scale, (centre + spread) / scale
    return share, max(0.0, min(low, share)), min(1.0, max(high, share))
