"""Rows added to the rows of a matrix, as the gradient of an embedding is, in one launch."""

from __future__ import annotations

from torch import Tensor

from tunesmith.fast.fused.operators import define, power_of_two

MAX_ROWS = 1 << 15
"""Each row looks for its number among the others: with more rows torch's sorting is faster."""
_SEARCHED = 1024


def add_rows(total_VE: Tensor, rows_TE: Tensor, numbers_T: Tensor) -> Tensor:
    """Add row i to row numbers[i] of total, in place, always in the same order. Returns total."""
    if len(rows_TE) > MAX_ROWS:
        return total_VE.index_put_((numbers_T,), rows_TE, accumulate=True)
    _add_rows(total_VE, rows_TE.contiguous(), numbers_T)
    return total_VE


def _reference(total: Tensor, rows: Tensor, numbers: Tensor) -> None:
    total.index_add_(0, numbers, rows.to(total.dtype))


def _kernel(total: Tensor, rows: Tensor, numbers: Tensor) -> None:
    from tunesmith.fast.kernels.embedding import add_rows

    size = rows.shape[1]
    block = power_of_two(size)
    add_rows[(len(rows),)](
        total, rows, numbers, len(rows), size, BLOCK=block, SEARCHED=_SEARCHED, num_warps=max(4, min(16, block // 256))
    )


def _shapes(total: Tensor, rows: Tensor, numbers: Tensor) -> None:
    return None


_add_rows = define(
    "add_rows(Tensor(a!) total, Tensor rows, Tensor numbers) -> ()", cpu=_reference, cuda=_kernel, shapes=_shapes
)
