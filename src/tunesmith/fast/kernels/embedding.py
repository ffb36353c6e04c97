"""Rows added to the rows of a matrix that their numbers name, in the order of the rows, without atomics."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def add_rows(  # type: ignore[no-untyped-def]
    total, rows, numbers, num_rows, size, BLOCK: tl.constexpr, SEARCHED: tl.constexpr
):
    """One row a program. The first with its number adds all that share it, the others do nothing."""
    row = tl.program_id(0)
    number = tl.load(numbers + row)
    columns = tl.arange(0, BLOCK)
    inside = columns < size
    searched = tl.arange(0, SEARCHED)
    earlier = 0
    begin = 0
    while (begin < row) & (earlier == 0):
        place = begin + searched
        same = tl.load(numbers + place, mask=place < row, other=-1) == number
        earlier = tl.max(same.to(tl.int32), 0)
        begin += SEARCHED
    if earlier == 0:
        to = total + number * size + columns
        value = tl.load(to, mask=inside, other=0.0).to(tl.float32)
        begin = row
        while begin < num_rows:
            place = begin + searched
            same = (tl.load(numbers + place, mask=place < num_rows, other=-1) == number).to(tl.int32)
            left = tl.sum(same, 0)
            while left > 0:
                offset = tl.min(tl.where(same == 1, searched, SEARCHED), 0)
                one = (begin + offset).to(tl.int64)
                value += tl.load(rows + one * size + columns, mask=inside, other=0.0).to(tl.float32)
                same = tl.where(searched == offset, 0, same)
                left -= 1
            begin += SEARCHED
        tl.store(to, value.to(total.dtype.element_ty), mask=inside)
