"""The most that this machine multiplies: large square matrix products, the bound of every training step."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from tunesmith.fast.linear import product

TRIAL_SIZE = 128


def matmul_flops(dtype: torch.dtype, device: str = "cpu", *, size: int = 2048, seconds: float = 1.5) -> float:
    """Sustained FLOP/s of [size, size] products for about `seconds`, by the fastest library that torch has for them.

    Of smaller products where a processor emulates the type, and one of them would take as long.
    """
    if device == "cpu" and size > TRIAL_SIZE:
        few = max(_rate(multiply, TRIAL_SIZE, device, 0.01) for multiply in _libraries(dtype, device, TRIAL_SIZE))
        while size > TRIAL_SIZE and 2.0 * size**3 > few * seconds:
            size //= 2
    libraries = _libraries(dtype, device, size)
    return max(_rate(multiply, size, device, seconds / len(libraries)) for multiply in libraries)


def _libraries(dtype: torch.dtype, device: str, size: int) -> list[Callable[[], Any]]:
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    libraries: list[Callable[[], Any]] = [lambda: torch.mm(a, b, out=out)]
    if device == "cpu" and dtype == torch.float32 and torch.backends.mkldnn.is_available():
        libraries.append(lambda: product(a, b))
    return libraries


def _rate(multiply: Callable[[], Any], size: int, device: str, seconds: float) -> float:
    def run(times: int) -> float:
        started = time.perf_counter()
        for _ in range(times):
            multiply()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    run(1)
    times = max(1, round(seconds / max(run(1), 1e-6)))
    return 2.0 * size**3 * times / run(times)
