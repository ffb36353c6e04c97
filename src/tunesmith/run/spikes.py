"""Losses that stand out above those before them."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Sequence

_WINDOW = 20
_MIN_HISTORY = 5


class Spikes:
    """Told one loss after another, says which stand out.

    A spike is more than 6 robust standard deviations (1.4826 times the median absolute deviation) and more than a tenth
    above the median of the last 20 losses that were no spikes themselves. The first 5 losses are never spikes.
    """

    def __init__(self) -> None:
        self._history: deque[float] = deque(maxlen=_WINDOW)

    @property
    def usual(self) -> float | None:
        """The median that the next loss is held against; None before there are enough."""
        return statistics.median(self._history) if len(self._history) >= _MIN_HISTORY else None

    def stands_out(self, loss: float) -> bool:
        """Whether `loss` does; one that does not is remembered."""
        median = self.usual
        if median is not None and loss > median + max(6 * self._deviation(median), 0.1 * abs(median)):
            return True
        self._history.append(loss)
        return False

    def _deviation(self, median: float) -> float:
        return 1.4826 * statistics.median(abs(loss - median) for loss in self._history)


def loss_spikes(losses: Sequence[float]) -> list[int]:
    """Positions of losses that stand out above those before them."""
    spikes = Spikes()
    return [position for position, loss in enumerate(losses) if spikes.stands_out(loss)]
