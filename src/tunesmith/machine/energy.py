"""Energy that GPUs took, by the driver's own counters; no counter, no number."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence


class EnergyMeter:
    """Joules since it was made. `read` gives a counter in millijoules that only grows, or None where there is none."""

    def __init__(self, read: Callable[[], int | None]) -> None:
        self._read, self._begun = read, read()
        self._last, self._looked = self._begun, time.monotonic()

    def joules(self, max_age: float = 0.0) -> float | None:
        """None where nothing measures it, or the counter began again.

        max_age: seconds that a reading may be old. One takes 3.5 ms and more on an H200, in which no step is started.
        """
        if self._begun is None:
            return None
        now = time.monotonic()
        if now - self._looked >= max_age:
            self._last, self._looked = self._read(), now
        return None if self._last is None or self._last < self._begun else (self._last - self._begun) / 1000


def gpu_millijoules(uuids: Sequence[str]) -> Callable[[], int | None]:
    """A counter of what the GPUs with these ids, as CUDA writes them, took since their driver was loaded.

    All that runs there counts. It gives None where there is no counter: cards before Volta, and parts of a card. The
    driver's library is opened once: opening takes milliseconds, and a counter is read beside every few steps.
    """
    try:
        import pynvml

        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}") for uuid in uuids]
    except Exception:  # no driver, no library, no permission
        return lambda: None

    def read() -> int | None:
        try:
            return sum(int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) for handle in handles)
        except Exception:  # the library's own kinds of failure
            return None

    return read if handles else lambda: None
