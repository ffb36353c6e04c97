"""Energy that GPUs took, by the driver's own counters; no counter, no number."""

from __future__ import annotations

from collections.abc import Callable, Sequence


class EnergyMeter:
    """Joules since it was made. `read` gives a counter in millijoules that only grows, or None where there is none."""

    def __init__(self, read: Callable[[], int | None]) -> None:
        self._read, self._begun = read, read()

    def joules(self) -> float | None:
        """None where nothing measures it, or the counter began again."""
        now = self._read() if self._begun is not None else None
        return None if now is None or self._begun is None or now < self._begun else (now - self._begun) / 1000


def gpu_millijoules(uuids: Sequence[str]) -> int | None:
    """Of the GPUs with these ids, as CUDA writes them, since their driver was loaded. All that runs there counts."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no driver, no library, no permission
        return None
    try:
        handles = [pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}") for uuid in uuids]
        return sum(int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) for handle in handles) if handles else None
    except Exception:  # cards before Volta, and parts of a card, have no counter
        return None
    finally:
        pynvml.nvmlShutdown()
