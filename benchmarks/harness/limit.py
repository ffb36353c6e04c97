"""The most that this machine multiplies: large square matrix products, the bound of every training step."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from tunesmith.fast.linear import product


def matmul_flops(dtype: torch.dtype, device: str = "cpu", *, size: int = 2048, seconds: float = 1.5) -> float:
    """Sustained FLOP/s of [size, size] products for about `seconds`, by the fastest library that torch has for them."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    libraries: list[Callable[[], Any]] = [lambda: torch.mm(a, b, out=out)]
    if device == "cpu" and dtype == torch.float32 and torch.backends.mkldnn.is_available():
        libraries.append(lambda: product(a, b))

    def run(multiply: Callable[[], Any], times: int) -> float:
        started = time.perf_counter()
        for _ in range(times):
            multiply()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    best = 0.0
    for multiply in libraries:
        run(multiply, 1)
        times = max(1, round(seconds / len(libraries) / max(run(multiply, 1), 1e-6)))
        best = max(best, 2.0 * size**3 * times / run(multiply, times))
    return best
