"""AdamW over bfloat16 weights, rounded at random: moments and weight of a parameter in one pass over memory."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _rounded(values, bits):  # type: ignore[no-untyped-def]
    """float32 to one of the two bfloat16 numbers around it: up with the share that is cut off. bits: 0 to 65,535."""
    return ((values.to(tl.int32, bitcast=True) + bits) & -65536).to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=["seed"])  # type: ignore[untyped-decorator]
def rounding_adamw(  # type: ignore[no-untyped-def]
    weight, grad, first, second, num_values, kept, size, root, keep1, keep2, epsilon, seed, BLOCK: tl.constexpr
):
    """Random bits follow from the seed and the place in the parameter alone."""
    number = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = number < num_values
    g = tl.load(grad + number, mask=inside, other=0.0).to(tl.float32)
    m = tl.load(first + number, mask=inside, other=0.0).to(tl.float32)
    v = tl.load(second + number, mask=inside, other=0.0).to(tl.float32)
    w = tl.load(weight + number, mask=inside, other=0.0).to(tl.float32)
    m = m + (g - m) * (1.0 - keep1)
    v = v * keep2 + g * g * (1.0 - keep2)
    w = w * kept - size * m / (tl.sqrt(v) / root + epsilon)
    bits = tl.randint(seed, number)
    low, high = (bits & 0xFFFF).to(tl.int32), ((bits >> 16) & 0xFFFF).to(tl.int32)
    tl.store(first + number, m.to(first.dtype.element_ty), mask=inside)
    tl.store(second + number, _rounded(v, high).to(second.dtype.element_ty), mask=inside)
    tl.store(weight + number, _rounded(w, low).to(weight.dtype.element_ty), mask=inside)
