"""Cross entropy of rows of logits, and its gradient in their place."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def _score(x, softcap, CAPPED: tl.constexpr):  # type: ignore[no-untyped-def]
    x = x.to(tl.float32)
    if CAPPED:
        x = (2.0 * tl.sigmoid(2.0 * x / softcap) - 1.0) * softcap
    return x


@triton.jit  # type: ignore[untyped-decorator]
def cross_entropy_gradient(  # type: ignore[no-untyped-def]
    logits, stride, targets, losses, size, width, factor, softcap, CAPPED: tl.constexpr, BLOCK: tl.constexpr
):
    """One row of logits a program: its loss, and factor * gradient in its place. Softmax in one pass (online).

    A negative target counts for nothing: loss 0, gradient 0. Of the `width` columns those from `size` on are no logits:
    they are not read, and get the gradient 0.
    """
    row = tl.program_id(0).to(tl.int64)
    begin = logits + row * stride
    target = tl.load(targets + row)
    counts = target >= 0
    scale = tl.where(counts, tl.load(factor).to(tl.float32), 0.0)
    columns = tl.arange(0, BLOCK)
    highest = -float("inf")
    total = 0.0
    for offset in range(0, size, BLOCK):
        inside = offset + columns < size
        x = _score(tl.load(begin + offset + columns, mask=inside, other=0.0), softcap, CAPPED)
        x = tl.where(inside, x, -float("inf"))
        above = tl.maximum(highest, tl.max(x, 0))
        total = total * tl.exp(highest - above) + tl.sum(tl.exp(x - above), 0)
        highest = above
    of_target = _score(tl.load(begin + tl.maximum(target, 0)), softcap, CAPPED)
    tl.store(losses + row, tl.where(counts, tl.log(total) + highest - of_target, 0.0))
    tl.debug_barrier()
    for offset in range(0, width, BLOCK):
        inside = offset + columns < size
        x = _score(tl.load(begin + offset + columns, mask=inside, other=0.0), softcap, CAPPED)
        slope = tl.exp(x - highest) / total - tl.where(offset + columns == target, 1.0, 0.0)
        if CAPPED:
            slope = slope * (1.0 - (x / softcap) * (x / softcap))
        slope = tl.where(inside, slope * scale, 0.0)
        tl.store(begin + offset + columns, slope.to(logits.dtype.element_ty), mask=offset + columns < width)
