"""The peak of memory use; recognising and surviving its end is shared with `evaluate`."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import torch

from tunesmith.evaluate import is_out_of_memory, release_memory

__all__ = ["is_out_of_memory", "peak_bytes", "release_memory"]


def peak_bytes(device: torch.device) -> int:
    """Most memory held so far: reserved by the caching allocator on a GPU, resident set of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    status = Path("/proc/self/status")
    if status.exists():  # getrusage keeps the peak of the process that started this one
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        memory = psutil.Process().memory_info()
        return int(getattr(memory, "peak_wset", memory.rss))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
