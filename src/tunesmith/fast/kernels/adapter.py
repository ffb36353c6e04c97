"""Thin products of low-rank adapters: of all that sit on one product at once, each on its own columns.

Up to three adapters of rank R stand on columns [begin, end) of M. B is stacked, [M1 + M2 + M3, R]; inner values lie
side by side, [T, 3 R]. RANK and INNER are powers of two, at least 16, and R and 3 R. A column outside of all has none.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _place(column, begin0, end0, begin1, end1, begin2, end2):  # type: ignore[no-untyped-def]
    """Which adapter each column has (-1: none), and its row in the stack."""
    second, third = (column >= begin1) & (column < end1), (column >= begin2) & (column < end2)
    adapter = tl.where((column >= begin0) & (column < end0), 0, -1)
    adapter = tl.where(second, 1, adapter)
    adapter = tl.where(third, 2, adapter)
    row = column - begin0
    row = tl.where(second, end0 - begin0 + column - begin1, row)
    row = tl.where(third, end0 - begin0 + end1 - begin1 + column - begin2, row)
    return adapter, row


@triton.jit  # type: ignore[untyped-decorator]
def add_adapters(  # type: ignore[no-untyped-def]
    values,
    inner,
    up,
    out,
    scaled,
    num_rows,
    num_columns,
    value_stride,
    inner_stride,
    rank,
    scale,
    begin0,
    end0,
    begin1,
    end1,
    begin2,
    end2,
    NUM: tl.constexpr,
    RANK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """out = values + scale * inner B^T, of a block of rows and columns; the first columns keep scale * inner."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    place = tl.arange(0, RANK)
    here = (row < num_rows) & (column < num_columns)[None, :]
    adapter, of_stack = _place(column, begin0, end0, begin1, end1, begin2, end2)
    total = tl.load(values + row * value_stride + column[None, :], mask=here, other=0.0).to(tl.float32)
    for number in tl.static_range(NUM):
        inside = (row < num_rows) & (place < rank)[None, :]
        one = tl.load(inner + row * inner_stride + number * rank + place[None, :], mask=inside, other=0.0)
        one = (one.to(tl.float32) * scale).to(scaled.dtype.element_ty)
        if tl.program_id(1) == 0:
            tl.store(scaled + row * (NUM * rank) + number * rank + place[None, :], one, mask=inside)
        known = (adapter == number)[None, :] & (place < rank)[:, None]
        matrix = tl.load(up + of_stack[None, :] * rank + place[:, None], mask=known, other=0.0)
        total += tl.dot(one, matrix)
    tl.store(out + row * num_columns + column[None, :], total.to(out.dtype.element_ty), mask=here)


@triton.jit  # type: ignore[untyped-decorator]
def inner_gradient(  # type: ignore[no-untyped-def]
    grad,
    up,
    out,
    num_rows,
    num_columns,
    grad_stride,
    out_stride,
    rank,
    scale,
    begin0,
    end0,
    begin1,
    end1,
    begin2,
    end2,
    NUM: tl.constexpr,
    COPIED: tl.constexpr,
    RANK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """scale * grad B of one adapter and a block of rows. COPIED: out begins with the gradient itself, which the
    programs behind those of the adapters write."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    number = tl.program_id(1)
    offset = tl.arange(0, COLUMNS)
    place = tl.arange(0, RANK)
    if number < NUM:
        begin = tl.where(number == 0, begin0, tl.where(number == 1, begin1, begin2))
        end = tl.where(number == 0, end0, tl.where(number == 1, end1, end2))
        first = tl.where(number == 0, 0, end0 - begin0) + tl.where(number == 2, end1 - begin1, 0)
        total = tl.zeros([ROWS, RANK], dtype=tl.float32)
        for start in range(0, end - begin, COLUMNS):
            column = start + offset
            inside = column < end - begin
            value = tl.load(
                grad + row * grad_stride + (begin + column)[None, :],
                mask=(row < num_rows) & inside[None, :],
                other=0.0,
            )
            matrix = tl.load(
                up + (first + column)[:, None] * rank + place[None, :],
                mask=inside[:, None] & (place < rank)[None, :],
                other=0.0,
            )
            total += tl.dot(value, matrix)
        to = out + row * out_stride + COPIED * num_columns + number * rank + place[None, :]
        result = (total * scale).to(out.dtype.element_ty)
        tl.store(to, result, mask=(row < num_rows) & (place < rank)[None, :])
    else:
        column = (number - NUM) * COLUMNS + offset
        here = (row < num_rows) & (column < num_columns)[None, :]
        value = tl.load(grad + row * grad_stride + column[None, :], mask=here, other=0.0)
        tl.store(out + row * out_stride + column[None, :], value, mask=here)


@triton.jit  # type: ignore[untyped-decorator]
def adapter_gradients(  # type: ignore[no-untyped-def]
    grad,
    x,
    inner,
    d_inner,
    d_down,
    d_up,
    num_rows,
    num_columns,
    num_inputs,
    grad_stride,
    d_inner_stride,
    rank,
    begin0,
    end0,
    begin1,
    end1,
    begin2,
    end2,
    NUM: tl.constexpr,
    INNER: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A block of columns of x gives those of the gradients of all A's, d_inner^T x; a block of columns of grad gives
    the rows of the gradients of B's, grad^T inner. Each program goes through all rows."""
    program = tl.program_id(0)
    blocks = tl.cdiv(num_inputs, COLUMNS)
    row = tl.arange(0, ROWS).to(tl.int64)[:, None]
    place = tl.arange(0, INNER)
    of_inner = (place < NUM * rank)[None, :]
    total = tl.zeros([COLUMNS, INNER], dtype=tl.float32)
    if program < blocks:
        column = program * COLUMNS + tl.arange(0, COLUMNS)
        for start in range(0, num_rows, ROWS):
            inside = start + row < num_rows
            left = tl.load(
                x + (start + row) * num_inputs + column[None, :],
                mask=inside & (column < num_inputs)[None, :],
                other=0.0,
            )
            right = tl.load(
                d_inner + (start + row) * d_inner_stride + place[None, :], mask=inside & of_inner, other=0.0
            )
            total += tl.dot(tl.trans(left), right)
        to = d_down + place[None, :] * num_inputs + column[:, None]
        tl.store(to, total, mask=(column < num_inputs)[:, None] & of_inner)
    else:
        column = (program - blocks) * COLUMNS + tl.arange(0, COLUMNS)
        for start in range(0, num_rows, ROWS):
            inside = start + row < num_rows
            left = tl.load(
                grad + (start + row) * grad_stride + column[None, :],
                mask=inside & (column < num_columns)[None, :],
                other=0.0,
            )
            right = tl.load(inner + (start + row) * (NUM * rank) + place[None, :], mask=inside & of_inner, other=0.0)
            total += tl.dot(tl.trans(left), right)
        adapter, of_stack = _place(column, begin0, end0, begin1, end1, begin2, end2)
        mine = (adapter[:, None] == (place // rank)[None, :]) & (column < num_columns)[:, None] & of_inner
        tl.store(d_up + of_stack[:, None] * rank + (place % rank)[None, :], total, mask=mine)
