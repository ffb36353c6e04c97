"""Losses that stand out above those before them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

_WINDOW = 20
_MIN_HISTORY = 5


def loss_spikes(losses: Sequence[float]) -> list[int]:
    """Positions of losses that stand out.

    A spike is more than 6 robust standard deviations (1.4826 times the median absolute deviation) and more than a tenth
    above the median of the last 20 losses that were no spikes themselves. The first 5 losses are never spikes.
    """
    spikes: list[int] = []
    history: list[float] = []
    for position, loss in enumerate(losses):
        if len(history) >= _MIN_HISTORY and loss > _limit(history[-_WINDOW:]):
            spikes.append(position)
        else:
            history.append(loss)
    return spikes


def _limit(history: list[float]) -> float:
    median = statistics.median(history)
    deviation = 1.4826 * statistics.median(abs(loss - median) for loss in history)
    return median + max(6 * deviation, 0.1 * abs(median))
