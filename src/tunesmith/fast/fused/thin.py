"""The thin products of the adapters on one product, in one launch each.

columns: begin and end of each adapter's columns, one after another; there are at most three, all of one rank R. inner
values lie side by side, [T, 3 R]; B's are stacked, [M1 + M2 + M3, R].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tunesmith.fast.fused.operators import define, power_of_two

MAX_ADAPTERS = 3
MAX_INNER = 128
"""Most inner values of all adapters together: a program holds them for a block of columns."""
_ROWS, _COLUMNS = 64, 64


def _pairs(columns: list[int]) -> list[tuple[int, int]]:
    return list(zip(columns[::2], columns[1::2], strict=True))


def _stacked(up: Tensor, columns: list[int]) -> tuple[Tensor, ...]:
    parts: tuple[Tensor, ...] = up.split([end - begin for begin, end in _pairs(columns)])
    return parts


def _bounds(columns: list[int]) -> dict[str, int]:
    names = ("begin0", "end0", "begin1", "end1", "begin2", "end2")
    return dict(zip(names, [*columns, *[0] * (len(names) - len(columns))], strict=True))


def _add_reference(
    values: Tensor, inner: Tensor, up: Tensor, columns: list[int], scale: float
) -> tuple[Tensor, Tensor]:
    scaled = (inner.float() * scale).to(inner.dtype)
    out = values.float().clone()
    parts = zip(_pairs(columns), scaled.split(up.shape[1], 1), _stacked(up, columns), strict=True)
    for (begin, end), one, matrix in parts:
        out[:, begin:end] += one.float() @ matrix.float().t()
    return out.to(values.dtype), scaled


def _add_shapes(values: Tensor, inner: Tensor, up: Tensor, columns: list[int], scale: float) -> tuple[Tensor, Tensor]:
    return values.new_empty(values.shape), inner.new_empty(inner.shape)


def _add_kernel(values: Tensor, inner: Tensor, up: Tensor, columns: list[int], scale: float) -> tuple[Tensor, Tensor]:
    from tunesmith.fast.kernels.adapter import add_adapters

    out, scaled = made = _add_shapes(values, inner, up, columns, scale)
    (num_rows, num_columns), rank = values.shape, up.shape[1]
    grid = (-(-num_rows // _ROWS), -(-num_columns // _COLUMNS))
    strides = (values.stride(0), inner.stride(0))
    add_adapters[grid](
        values,
        inner,
        up,
        out,
        scaled,
        num_rows,
        num_columns,
        *strides,
        rank,
        scale,
        **_bounds(columns),
        NUM=len(columns) // 2,
        RANK=max(16, power_of_two(rank)),
        ROWS=_ROWS,
        COLUMNS=_COLUMNS,
    )
    return made


def _inner_reference(grad: Tensor, up: Tensor, columns: list[int], scale: float, extended: bool) -> Tensor:
    parts = [
        grad[:, begin:end].float() @ matrix.float() * scale
        for (begin, end), matrix in zip(_pairs(columns), _stacked(up, columns), strict=True)
    ]
    return torch.cat([*([grad] if extended else []), *(part.to(grad.dtype) for part in parts)], 1)


def _inner_shapes(grad: Tensor, up: Tensor, columns: list[int], scale: float, extended: bool) -> Tensor:
    width = up.shape[1] * len(columns) // 2
    return grad.new_empty(grad.shape[0], width + (grad.shape[1] if extended else 0))


def _inner_kernel(grad: Tensor, up: Tensor, columns: list[int], scale: float, extended: bool) -> Tensor:
    from tunesmith.fast.kernels.adapter import inner_gradient

    out = _inner_shapes(grad, up, columns, scale, extended)
    (num_rows, num_columns), rank, number = grad.shape, up.shape[1], len(columns) // 2
    rows = 32
    grid = (-(-num_rows // rows), number + (-(-num_columns // _COLUMNS) if extended else 0))
    inner_gradient[grid](
        grad,
        up,
        out,
        num_rows,
        num_columns,
        grad.stride(0),
        out.stride(0),
        rank,
        scale,
        **_bounds(columns),
        NUM=number,
        COPIED=int(extended),
        RANK=max(16, power_of_two(rank)),
        ROWS=rows,
        COLUMNS=_COLUMNS,
    )
    return out


def _gradients_reference(
    grad: Tensor, x: Tensor, inner: Tensor, d_inner: Tensor, columns: list[int]
) -> tuple[Tensor, Tensor]:
    rank = inner.shape[1] * 2 // len(columns)
    parts = zip(_pairs(columns), inner.split(rank, 1), strict=True)
    d_ups = [grad[:, begin:end].float().t() @ one.float() for (begin, end), one in parts]
    return d_inner.float().t() @ x.float(), torch.cat(d_ups)


def _gradients_shapes(
    grad: Tensor, x: Tensor, inner: Tensor, d_inner: Tensor, columns: list[int]
) -> tuple[Tensor, Tensor]:
    rank, rows = inner.shape[1] * 2 // len(columns), sum(end - begin for begin, end in _pairs(columns))
    wide: dict[str, Any] = {"dtype": torch.float32}
    return x.new_empty(inner.shape[1], x.shape[1], **wide), x.new_empty(rows, rank, **wide)


def _gradients_kernel(
    grad: Tensor, x: Tensor, inner: Tensor, d_inner: Tensor, columns: list[int]
) -> tuple[Tensor, Tensor]:
    from tunesmith.fast.kernels.adapter import adapter_gradients

    d_down, d_up = made = _gradients_shapes(grad, x, inner, d_inner, columns)
    (num_rows, num_columns), num_inputs = grad.shape, x.shape[1]
    grid = (-(-num_inputs // _COLUMNS) - (-num_columns // _COLUMNS),)
    adapter_gradients[grid](
        grad,
        x,
        inner,
        d_inner,
        d_down,
        d_up,
        num_rows,
        num_columns,
        num_inputs,
        grad.stride(0),
        d_inner.stride(0),
        d_up.shape[1],
        **_bounds(columns),
        NUM=len(columns) // 2,
        INNER=max(16, power_of_two(inner.shape[1])),
        ROWS=_ROWS,
        COLUMNS=_COLUMNS,
    )
    return made


add_adapters = define(
    "add_adapters(Tensor values, Tensor inner, Tensor up, int[] columns, float scale) -> (Tensor, Tensor)",
    cpu=_add_reference,
    cuda=_add_kernel,
    shapes=_add_shapes,
)
"""values + scale * inner B^T, and scale * inner."""
inner_gradient = define(
    "adapters_inner_gradient(Tensor grad, Tensor up, int[] columns, float scale, bool extended) -> Tensor",
    cpu=_inner_reference,
    cuda=_inner_kernel,
    shapes=_inner_shapes,
)
"""scale * grad B; extended: behind grad, side by side."""
adapter_gradients = define(
    "adapter_gradients(Tensor grad, Tensor x, Tensor inner, Tensor d_inner, int[] columns) -> (Tensor, Tensor)",
    cpu=_gradients_reference,
    cuda=_gradients_kernel,
    shapes=_gradients_shapes,
)
"""The gradients of A, [3 R, K], and of B, stacked, in float32."""
