"""The curve through the base and a few points: how far it may go, as many draws of what could be true.

    L(D) = E + (L0 - E) / (1 + (D / D0) ** b)

L0: the base's loss. E: the floor. D0: rows at which half of the way is gone. b: exponent. The form is that of Lin et
al. ("Selecting Large Language Models to Fine-tune via Rectified Scaling Law", 2024, arXiv 2402.02314), whose
"pre-learned data size" makes a fine-tuned model begin at its base; far beyond D0 it is the power law with a floor of
Zhang et al. ("When Scaling Meets LLM Finetuning", 2024, arXiv 2402.17193). Three points and a base just determine it,
and do not say how surely: so each combination on a grid is weighed, by how well it explains them and how likely it was
before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from tunesmith.errors import SweepError

Floats = NDArray[np.float64]
EXPONENTS = np.geomspace(0.05, 2.5, 46)
"""Equally likely by their logarithm. 0.28 (Hoffmann et al., 2022) and 0.095 (Kaplan et al., 2020) were found of tokens
in pre-training; tuning on another kind of text gains less from each row (Hernandez et al., 2021, arXiv 2102.01293: what
it takes over from pre-training grows with the power 0.18 of the rows); above a half it soon stands still, as shares may
show that are the first a model learns from: with exponents up to 1.5 alone the interval missed such a run."""
HALF_FROM, HALF_TO, NUM_HALVES = 1e-6, 10.0, 60
"""D0, of the smallest number of rows: most of what a base does not know, how such texts begin and end, it learns from
few."""
USUAL_NOISE, NOISE_FACTOR = 0.008, 2.0
"""Standard deviation of the held-out loss from run to run, before any was seen: usually this, within twice or half of
it; what the plan decides otherwise for another number of rows counts as noise too."""
NOISES = np.geomspace(0.0015, 0.06, 9)
LEVEL = 0.9
NUM_DRAWS = 4000


@dataclass(frozen=True, eq=False)
class PowerLaw:
    """Draws of what could be true, each [N]."""

    base_loss: float
    exponent: Floats
    half: Floats
    floor: Floats
    noise: Floats

    def at(self, size: float) -> Floats:
        """[N] the loss that training on `size` rows ends with on average."""
        return self.floor + (self.base_loss - self.floor) / (1 + (size / self.half) ** self.exponent)

    def luck(self, seed: int) -> Floats:
        """[N] how far one run ends from that."""
        draws: Floats = self.noise * np.random.default_rng(seed).standard_normal(len(self.noise))
        return draws


def fit(base_loss: float, sizes: Sequence[float], losses: Sequence[float], *, seed: int = 0) -> PowerLaw:
    """What could be true after `losses` were seen at `sizes` rows. The same draws for the same input.

    Raises SweepError where no such curve comes near them: training did not lower the loss.
    """
    half_grid = min(sizes) * np.geomspace(HALF_FROM, HALF_TO, NUM_HALVES)
    exponent, half, noise = (axis.ravel() for axis in np.meshgrid(EXPONENTS, half_grid, NOISES, indexing="ij"))
    ways = np.stack([1 - 1 / (1 + (size / half) ** exponent) for size in sizes])
    """[points, cells] the share of the way from base to floor that is gone at each size."""
    falls = base_loss - np.array(losses, dtype=np.float64)[:, None]
    length = (ways**2).sum(axis=0)
    mean = (ways * falls).sum(axis=0) / length
    """[cells] the likeliest way from base to floor; normally distributed about it, between 0 and the base's loss."""
    spread = noise / np.sqrt(length)
    low, high = _cumulative(-mean / spread), _cumulative((base_loss - mean) / spread)
    misfit = ((falls - mean * ways) ** 2).sum(axis=0)
    with np.errstate(divide="ignore"):
        weight = (
            -misfit / (2 * noise**2)
            - len(sizes) * np.log(noise)
            + np.log(spread)
            + np.log(high - low)
            - 0.5 * (np.log(noise / USUAL_NOISE) / math.log(NOISE_FACTOR)) ** 2
        )
    if max(falls) <= 0 or not np.isfinite(weight.max()):
        raise SweepError(
            "sweep --data-curve: training did not lower the held-out loss, so there is no curve. Look at the data "
            "(tunesmith data) and at train.learning_rate (--lr-find)."
        )
    random = np.random.default_rng(seed)
    probability = np.exp(weight - weight.max())
    chosen = random.choice(len(weight), NUM_DRAWS, p=probability / probability.sum())
    at = low[chosen] + (high - low)[chosen] * random.random(NUM_DRAWS)
    way = np.clip(mean[chosen] + spread[chosen] * _quantile(at), 0.0, base_loss)
    return PowerLaw(base_loss, exponent[chosen], half[chosen], base_loss - way, noise[chosen])


_NORMAL = NormalDist()


def _cumulative(values: Floats) -> Floats:
    return np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in values.tolist()])


def _quantile(shares: Floats) -> Floats:
    return np.array([_NORMAL.inv_cdf(min(max(share, 1e-12), 1 - 1e-12)) for share in shares.tolist()])
