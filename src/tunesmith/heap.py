"""Memory of the process, set up so that a step finds its tensors' memory where the last step left it.

glibc gives large blocks back to the system as they are freed. The next step then takes every page of them anew, which
costs a fault per 4 KiB. Here freed memory stays with the process and comes in huge pages: 6 to 9% more tokens per
second for SmolLM2-135M on two Zen 4 cores, at the same peak.
"""

from __future__ import annotations

import ctypes
import os

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_LARGEST_INT = 2**31 - 1


def keep_memory() -> None:
    """Call before torch allocates anything; it reads its part once. Does nothing where malloc is not glibc's.

    A value that the environment sets (MALLOC_..., THP_MEM_ALLOC_ENABLE) is left alone.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if "MALLOC_MMAP_MAX_" not in os.environ and "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        _call_malloc("mallopt", _M_TRIM_THRESHOLD, _LARGEST_INT)
        _call_malloc("mallopt", _M_MMAP_MAX, 0)


def give_back() -> None:
    """Return to the system what is free now: between phases, whose blocks do not fit into each other's gaps."""
    _call_malloc("malloc_trim", 0)


def _call_malloc(name: str, *values: int) -> None:
    function = getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None
    if function is not None:
        function(*values)
