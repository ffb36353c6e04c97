"""SwiGLU over rows [T, 2 F] that hold gate and up side by side, and the gradients of SwiGLU and tanh GELU.

The gradients also give the activation's result again, which the product behind it needs and which nothing kept.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def swiglu_forward(both, out, num_values, size, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """silu(gate) * up."""
    number = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = number < num_values
    place = number // size * (2 * size) + number % size
    gate = tl.load(both + place, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(both + place + size, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + number, (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def swiglu_backward(grad, both, d_both, out, num_values, size, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """The gradients of gate and up, and silu(gate) * up once more."""
    number = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = number < num_values
    place = number // size * (2 * size) + number % size
    gate = tl.load(both + place, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(both + place + size, mask=inside, other=0.0).to(tl.float32)
    slope = tl.load(grad + number, mask=inside, other=0.0).to(tl.float32)
    open_share = tl.sigmoid(gate)
    opened = gate * open_share
    tl.store(out + number, (opened * up).to(out.dtype.element_ty), mask=inside)
    d_gate = slope * up * (open_share + opened * (1.0 - open_share))
    tl.store(d_both + place, d_gate.to(d_both.dtype.element_ty), mask=inside)
    tl.store(d_both + place + size, (slope * opened).to(d_both.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def gelu_backward(grad, x, d_x, out, num_values, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """The gradient of x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), and its value once more."""
    number = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = number < num_values
    value = tl.load(x + number, mask=inside, other=0.0).to(tl.float32)
    slope = tl.load(grad + number, mask=inside, other=0.0).to(tl.float32)
    square = value * value
    inner = 0.7978845608028654 * value * (1.0 + 0.044715 * square)
    share = tl.sigmoid(2.0 * inner)  # (1 + tanh) / 2
    tl.store(out + number, (value * share).to(out.dtype.element_ty), mask=inside)
    d_inner = 0.7978845608028654 * (1.0 + 0.134145 * square)
    d_value = share + 2.0 * value * share * (1.0 - share) * d_inner
    tl.store(d_x + number, (slope * d_value).to(d_x.dtype.element_ty), mask=inside)
