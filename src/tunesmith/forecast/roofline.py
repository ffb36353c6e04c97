"""How long operators take: each at the rate of arithmetic or of memory, whichever is slower."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

import torch

from tunesmith.forecast.tracing.launches import num_kernels
from tunesmith.forecast.tracing.trace import Work
from tunesmith.machine.detect import best_seconds
from tunesmith.machine.gpus import Gpu

HALF = (torch.bfloat16, torch.float16)
LONG_SECONDS = 10.0
"""A product that takes longer is not timed whole."""
Gemm = tuple[int, int, int, int]


class Rates(Protocol):
    """Something that can tell how long work takes."""

    def seconds(self, work: Counter[Work]) -> float: ...


@dataclass(frozen=True)
class GpuRates:
    """A GPU by its data sheet.

    The shares say how much of the sheet's rates the kernels of a step reach. In bf16 they are fitted to one H200 (989
    TFLOP/s and 4.8 TB/s on the sheet, 703 and 4.3 measured there), to twelve steps of 1,056 to 16,896 tokens: recorded
    ones of GPT-Neo-125M and 1.3B, SmolLM2-135M and LoRA, and the GPU's share of steps whose layers were not fused. Ten
    are within 8%, one LoRA step of 3.9 ms is 11% over. Products may seem faster than they are, since whole tiles are
    counted. In float32 0.7 is assumed from published figures (a 2.7B model at 0.4 samples of 2048 tokens a second on an
    A100 is 75% of its rate).
    """

    gpu: Gpu
    gemm_share: float = 0.78
    attention_share: float = 0.67
    bandwidth_share: float = 0.33
    """Of element-wise passes."""
    optimizer_share: float = 0.55
    """Of the bandwidth, for passes over many tensors: clipping, the optimizer, copies of weights."""
    operand_share: float = 0.9
    """Of the bandwidth, as products read and write with it."""
    fp32_share: float = 0.7

    def seconds(self, work: Counter[Work]) -> float:
        """The GPU's time: kernels run one after another. What the host takes to start them is host.py's."""
        return sum(self._operator(item) * calls for item, calls in work.items())

    def _operator(self, item: Work) -> float:
        number = num_kernels(item.name)
        return 0.0 if number == 0 else self._kernel(item) + number * GAP_SECONDS

    def _kernel(self, item: Work) -> float:
        half = item.dtype in HALF
        peak = self.gpu.matrix if half else self.gpu.fp32
        if item.gemm is None:
            share = self.optimizer_share if item.name in OVER_MANY else self.bandwidth_share
            traffic = item.num_bytes / (self.gpu.bandwidth * share)
            return max(item.flops * item.stretch / (peak * self.attention_share), traffic)
        traffic = item.num_bytes / (self.gpu.bandwidth * self.operand_share)
        if not half:
            return max(item.flops / (peak * self.fp32_share), traffic)
        share = self.gemm_share if item.aligned else self.gemm_share * self._unaligned
        return max(_tiled_flops(item.gemm) / (peak * share), traffic)

    @property
    def _unaligned(self) -> float:
        """What is left of the rate where rows are not aligned and kernels of older GPUs take over."""
        return UNALIGNED_ON_HOPPER if self.gpu.capability >= (9, 0) else UNALIGNED


OVER_MANY = ("_fused_adamw_", "_foreach_norm", "_foreach_mul_", "_foreach_copy_", "linalg_vector_norm")
"""What a GPU does for many tensors at once."""
GAP_SECONDS = 1.9e-6
"""From the end of one kernel to full work of the next. Fitted with the shares."""
UNALIGNED_ON_HOPPER = 0.16
"""The products of a head of 50,257 rows ran on Turing's kernels: 31 ms on an H200 where at the limit they take 5.4."""
UNALIGNED = 0.5
"""Assumed for GPUs whose own kernels are nearer to Turing's."""
TILE_ROWS, TILE_COLUMNS = 128, 256
"""What one block of a product computes."""


def _tiled_flops(gemm: Gemm) -> int:
    rows, inner, columns, batch = gemm
    whole_rows, whole_columns = -(-rows // TILE_ROWS) * TILE_ROWS, -(-columns // TILE_COLUMNS) * TILE_COLUMNS
    return 2 * batch * whole_rows * whole_columns * inner


@dataclass
class CpuRates:
    """This processor, by short measurements: every large matrix product of the step at its own shape, and a copy."""

    gemm_seconds: dict[tuple[Gemm, torch.dtype], float] = field(default_factory=dict)
    flops_per_second: float = 1e11
    bytes_per_second: float = 1e10
    attention_share: float = 0.35
    call_seconds: float = 5e-6

    @classmethod
    def measure(cls, work: Counter[Work], *, budget_seconds: float = 0.6) -> CpuRates:
        """Time the products that make up most of `work`, until the budget is spent."""
        products = {(item.gemm, item.dtype): item.flops for item in work if item.gemm is not None}
        share = Counter[tuple[Gemm, torch.dtype]]()
        for item, calls in work.items():
            if item.gemm is not None:
                share[item.gemm, item.dtype] += item.flops * calls
        rates = cls(bytes_per_second=_copy_rate())
        began, timed = time.perf_counter(), 0
        for key, _ in share.most_common():
            if timed and time.perf_counter() - began > budget_seconds:
                break
            rates.gemm_seconds[key] = _time_gemm(*key)
            timed += products[key]
        if timed:
            rates.flops_per_second = timed / sum(rates.gemm_seconds.values())
        return rates

    def seconds(self, work: Counter[Work]) -> float:
        return sum(self._call(item) * calls for item, calls in work.items())

    def _call(self, item: Work) -> float:
        if item.gemm is not None:
            measured = self.gemm_seconds.get((item.gemm, item.dtype))
            return (measured or item.flops / self.flops_per_second) + self.call_seconds
        arithmetic = item.flops / (self.flops_per_second * self.attention_share)
        return max(arithmetic, item.num_bytes / self.bytes_per_second) + self.call_seconds


def _time_gemm(gemm: Gemm, dtype: torch.dtype) -> float:
    """Seconds of one product; of a part of its rows, in proportion, where a processor emulates the type."""
    rows, inner, columns, batch = gemm
    shape = (batch,) if batch > 1 else ()
    left, right = torch.zeros(*shape, rows, inner, dtype=dtype), torch.zeros(*shape, inner, columns, dtype=dtype)
    part = max(1, rows // 16)
    began = time.perf_counter()
    torch.matmul(left[..., :part, :], right)
    seconds = (time.perf_counter() - began) * rows / part
    if seconds > LONG_SECONDS:
        return seconds
    out = torch.zeros(*shape, rows, columns, dtype=dtype)
    return best_seconds(lambda: torch.matmul(left, right, out=out), repeats=2)


def _copy_rate(num_bytes: int = 8 << 20) -> float:
    """Bytes read and written per second by a copy."""
    source = torch.zeros(num_bytes // 4)
    target = torch.zeros(num_bytes // 4)
    return 2 * num_bytes / best_seconds(lambda: target.copy_(source), repeats=3)


def measure_gpu(name: str) -> Gpu:
    """The rates of the first CUDA device, for one that is not in the table."""
    device = torch.device("cuda")
    half = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    size = 4096

    def product_rate(dtype: torch.dtype) -> float:
        left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

        def run() -> None:
            torch.matmul(left, right)
            torch.cuda.synchronize()

        return 2 * size**3 / best_seconds(run, repeats=5)

    source = torch.zeros(64 << 20, device=device)

    def copy() -> None:
        source.clone()
        torch.cuda.synchronize()

    memory = torch.cuda.get_device_properties(device).total_memory
    return Gpu(
        key="this",
        name=name,
        sold_gigabytes=round(memory / 1e9),
        memory_bytes=memory,
        fp32=product_rate(torch.float32),
        matrix=product_rate(half),
        bandwidth=2 * source.numel() * 4 / best_seconds(copy, repeats=5),
        bf16=half == torch.bfloat16,
        capability=torch.cuda.get_device_capability(device),
        source="measured here",
        aliases=(),
        device="",
    )
