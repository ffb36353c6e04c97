"""What the NVIDIA driver says of its GPUs, asked through its own library: nothing of CUDA is loaded by that.

A process that asks CUDA instead holds some of the GPU's memory from then on, which a run beside it may need.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

CONTEXT_BYTES = int(0.45 * 2**30)
"""What a process holds on a GPU before any tensor, about."""


@contextlib.contextmanager
def nvml() -> Iterator[Any]:
    """The driver's library, or None where there is no driver."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # NVMLError, or no library at all
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def free_bytes(uuid: str) -> int | None:
    """Memory of a GPU that nobody holds now; None where the driver does not tell, as of a part of a GPU (MIG)."""
    with nvml() as library:
        if library is None:
            return None
        try:
            handle = library.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
            return int(library.nvmlDeviceGetMemoryInfo(handle).free)
        except library.NVMLError:
            return None
