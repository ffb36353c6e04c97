"""The most that this machine multiplies: large square matrix products, the bound of every training step."""

from __future__ import annotations

import time

import torch


def matmul_flops(dtype: torch.dtype, device: str = "cpu", *, size: int = 2048, seconds: float = 1.5) -> float:
    """Sustained FLOP/s of [size, size] products for about `seconds`."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)

    def run(times: int) -> float:
        started = time.perf_counter()
        for _ in range(times):
            torch.mm(a, b, out=out)
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    run(1)
    one = max(run(1), 1e-6)
    times = max(1, round(seconds / one))
    return 2.0 * size**3 * times / run(times)
