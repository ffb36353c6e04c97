"""What the device of a model can do, as one value: every choice of the fast path follows from it.

A plan hands in a GPU that it pretends to have, and traces the choices that training makes there.
"""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path

import torch


@dataclass(frozen=True)
class Device:
    """A kind of device and its libraries."""

    type: str = "cpu"
    """As torch calls it: cpu, cuda."""
    flash_attention: bool = False
    """A GPU with flash attention: compute capability 8.0 (Ampere) or newer."""
    triton: bool = False
    """A GPU with Triton, which comes with CUDA builds of torch."""
    fused: bool = False
    """Layers run in few launches (fused/), and the head's rows are aligned: a GPU with Triton."""
    onednn: bool = False
    """A processor whose float32 products are faster by oneDNN than by what torch calls: see linear.py."""

    @property
    def is_cuda(self) -> bool:
        return self.type == "cuda"

    def plain(self) -> Device:
        """The same without layers in few launches, which keep copies of weights."""
        return replace(self, fused=False)

    @classmethod
    def of(cls, device: torch.device) -> Device:
        """What a device of this machine can do."""
        if device.type == "cuda":
            index = torch.cuda.current_device() if device.index is None else device.index
            return cls("cuda", flash_attention=_has_flash_attention(index), triton=_has_triton(), fused=_has_triton())
        return cls(device.type, onednn=device.type == "cpu" and onednn_is_faster())

    @classmethod
    def pretended_gpu(cls, *, flash_attention: bool, fused: bool = True) -> Device:
        """A GPU that need not be here, with the software that comes with one."""
        return cls("cuda", flash_attention=flash_attention, triton=True, fused=fused)


CPU = Device()
"""A processor of which nothing is known."""


@functools.cache
def _has_flash_attention(device_index: int) -> bool:
    return torch.cuda.get_device_capability(device_index) >= (8, 0)


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def onednn_is_faster() -> bool:
    """Whether this processor is AMD's with AVX-512, and torch has both libraries."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return False
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
