"""What the NVIDIA driver says of its GPUs, asked through its own library: nothing of CUDA is loaded by that.

A process that asks CUDA instead holds some of the GPU's memory from then on, which a run beside it may need. One that
will compute there anyway makes its context early, in a thread, while libraries load: `wake`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator
from typing import Any

CONTEXT_BYTES = int(0.45 * 2**30)
"""What the CUDA context and the loaded kernels take of a GPU before any tensor. Assumed, not measured per GPU."""


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


_waking: list[threading.Thread] = []


def wake() -> None:
    """Begin to make this process's CUDA context on the GPU that it will use; does nothing where there is none.

    The driver takes a second or so for it, in which Python runs on.
    """
    if not _waking:
        _waking.append(threading.Thread(target=_make_context, args=(int(os.environ.get("LOCAL_RANK", "0")),)))
        _waking[0].start()


def is_awake() -> bool:
    """Whether `wake` was called; what it began is done then."""
    for thread in _waking:
        thread.join()
    return bool(_waking)


def _make_context(index: int) -> None:
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return
    device, context = ctypes.c_int(), ctypes.c_void_p()
    if library.cuInit(0) == 0 and library.cuDeviceGet(ctypes.byref(device), index) == 0:
        library.cuDevicePrimaryCtxRetain(
            ctypes.byref(context), device
        )  # torch finds it there; it ends with the process
