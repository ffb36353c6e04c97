"""Residual sum and norm of each row in one pass. T contiguous rows of E columns; BLOCK: a power of two, at least E."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def add_norm_forward(  # type: ignore[no-untyped-def]
    x,
    added,
    added_bias,
    weight,
    bias,
    total,
    out,
    mean,
    rate,
    size,
    epsilon,
    ADDED: tl.constexpr,
    ADDED_BIAS: tl.constexpr,
    CENTRED: tl.constexpr,
    BIAS: tl.constexpr,
    ROUNDED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One row a program: total = x + added + added_bias, and its norm."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < size
    places = row * size + columns
    value = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
    if ADDED:
        more = tl.load(added + places, mask=inside, other=0.0).to(tl.float32)
        if ADDED_BIAS:
            more += tl.load(added_bias + columns, mask=inside, other=0.0).to(tl.float32)
        rounded = (value + more).to(total.dtype.element_ty)
        tl.store(total + places, rounded, mask=inside)
        value = rounded.to(tl.float32)
    if CENTRED:
        average = tl.sum(value, 0) / size
        tl.store(mean + row, average)
        value = tl.where(inside, value - average, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(value * value, 0) / size + epsilon)
    tl.store(rate + row, scale)
    normal = value * scale
    if ROUNDED:
        normal = normal.to(x.dtype.element_ty).to(tl.float32)
    normal = normal * tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    if BIAS:
        normal += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + places, normal.to(out.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def add_norm_backward(  # type: ignore[no-untyped-def]
    d_out,
    d_total,
    total,
    weight,
    mean,
    rate,
    d_x,
    d_added,
    parts,
    num_rows,
    size,
    OUTER: tl.constexpr,
    CENTRED: tl.constexpr,
    NARROWED: tl.constexpr,
    TRAINED: tl.constexpr,
    SUMMED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Every num_programs-th row a program: the gradient of total, with d_total added, and the program's share of the
    sums over rows: of the weight's gradient, the bias's, and (SUMMED) of the gradient of total."""
    program = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < size
    scale_of_column = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    d_weight = tl.zeros([BLOCK], dtype=tl.float32)
    d_bias = tl.zeros([BLOCK], dtype=tl.float32)
    d_sum = tl.zeros([BLOCK], dtype=tl.float32)
    for first in range(0, num_rows, tl.num_programs(0)):
        row = program + first
        here = inside & (row < num_rows)
        places = row * size + columns
        grad = tl.load(d_out + places, mask=here, other=0.0).to(tl.float32)
        value = tl.load(total + places, mask=here, other=0.0).to(tl.float32)
        scale = tl.load(rate + row, mask=row < num_rows, other=0.0)
        if CENTRED:
            value = value - tl.load(mean + row, mask=row < num_rows, other=0.0)
        normal = tl.where(inside, value * scale, 0.0)
        if TRAINED:
            d_weight += grad * normal
            if CENTRED:
                d_bias += grad
        slope = grad * scale_of_column
        d_value = slope - normal * (tl.sum(slope * normal, 0) / size)
        if CENTRED:
            d_value -= tl.sum(slope, 0) / size
        d_value *= scale
        if OUTER:
            d_value += tl.load(d_total + places, mask=here, other=0.0).to(tl.float32)
        tl.store(d_x + places, d_value.to(d_x.dtype.element_ty), mask=here)
        if NARROWED:
            tl.store(d_added + places, d_value.to(d_added.dtype.element_ty), mask=here)
        if SUMMED:
            d_sum += tl.where(here, d_value, 0.0)
    sums: tl.constexpr = (2 if CENTRED else 1) * TRAINED + SUMMED
    begin = parts + program * sums * size + columns
    if TRAINED:
        tl.store(begin, d_weight, mask=inside)
        if CENTRED:
            tl.store(begin + size, d_bias, mask=inside)
    if SUMMED:
        tl.store(begin + (sums - 1) * size, d_sum, mask=inside)
