"""Residual sum and norm in one pass: total = x + added + added_bias, and the RMS norm or layer norm of total.

Sums and statistics are float32. `total` has the type of x, the normal values have the type of the products that follow.
The weight's gradients are sums over rows: each program of the kernel adds its rows, one reduction adds the programs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tunesmith.fast.fused.operators import define, power_of_two


@dataclass(frozen=True)
class Norm:
    """A norm's parameters. centred: a layer norm, else an RMS norm, which has no bias."""

    weight: Tensor
    bias: Tensor | None
    epsilon: float
    centred: bool


def add_norm(
    x_TE: Tensor, added_TE: Tensor | None, added_bias_E: Tensor | None, norm: Norm, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """x + added + bias, in the type of x, and its norm in `dtype`."""
    out: tuple[Tensor, Tensor] = _AddNorm.apply(x_TE, added_TE, added_bias_E, norm.weight, norm.bias, norm, dtype)
    return out


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        added: Tensor | None,
        added_bias: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        norm: Norm,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        total, out, mean, rate = _forward(x, added, added_bias, weight, bias, norm.epsilon, norm.centred, dtype)
        if added is None:
            total = x
        ctx.save_for_backward(total, weight, mean, rate)
        ctx.set_materialize_grads(False)
        ctx.centred = norm.centred
        ctx.dtypes = tuple(None if tensor is None else tensor.dtype for tensor in (added, added_bias, weight, bias))
        return total, out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        d_total, d_out = grads
        total, weight, mean, rate = ctx.saved_tensors
        added_type, sum_type, weight_type, bias_type = ctx.dtypes
        assert d_out is not None  # the normal values always go into a product
        wants_sum, trained = ctx.needs_input_grad[2], ctx.needs_input_grad[3]
        narrowed = added_type is not None and added_type != total.dtype and ctx.needs_input_grad[1]
        d_x, d_added, parts = _backward(
            d_out,
            d_total,
            total,
            weight,
            mean,
            rate,
            ctx.centred,
            added_type if narrowed else None,
            trained,
            wants_sum,
        )
        sums = list(parts.sum(0)) if trained or wants_sum else []
        d_sum = sums.pop().to(sum_type) if wants_sum else None
        d_weight = sums[0].to(weight_type) if trained else None
        d_bias = sums[1].to(bias_type) if trained and bias_type is not None else None
        if added_type is None:
            return d_x, None, None, d_weight, d_bias, None, None
        return d_x, d_added if narrowed else d_x, d_sum, d_weight, d_bias, None, None


def _num_sums(centred: bool, trained: bool, summed: bool) -> int:
    return (2 if centred else 1) * trained + summed


def _forward_reference(
    x: Tensor,
    added: Tensor | None,
    added_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    epsilon: float,
    centred: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    total, wide = x, x.float()
    if added is not None:
        more = added.float() if added_bias is None else added.float() + added_bias.float()
        total = (wide + more).to(x.dtype)
        wide = total.float()
    mean = wide.mean(-1) if centred else wide.new_empty(0)
    if centred:
        wide = wide - mean[:, None]
    rate = (wide.square().mean(-1) + epsilon).rsqrt()
    normal = wide * rate[:, None]
    if not centred:
        normal = normal.to(x.dtype).float()
    normal = normal * weight.float()
    if bias is not None:
        normal = normal + bias.float()
    return x.new_empty(0, x.shape[1]) if added is None else total, normal.to(dtype), mean, rate


def _forward_shapes(
    x: Tensor,
    added: Tensor | None,
    added_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    epsilon: float,
    centred: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, width = x.shape
    return (
        x.new_empty(0 if added is None else rows, width),
        torch.empty_like(x, dtype=dtype),
        x.new_empty(rows if centred else 0, dtype=torch.float32),
        x.new_empty(rows, dtype=torch.float32),
    )


def _forward_kernel(
    x: Tensor,
    added: Tensor | None,
    added_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    epsilon: float,
    centred: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from tunesmith.fast.kernels.norm import add_norm_forward

    made = _forward_shapes(x, added, added_bias, weight, bias, epsilon, centred, dtype)
    total, out, mean, rate = made
    rows, width = x.shape
    block = power_of_two(width)
    add_norm_forward[(rows,)](
        x,
        added,
        added_bias,
        weight,
        bias,
        total,
        out,
        mean,
        rate,
        width,
        epsilon,
        ADDED=added is not None,
        ADDED_BIAS=added_bias is not None,
        CENTRED=centred,
        BIAS=bias is not None,
        ROUNDED=not centred,
        BLOCK=block,
        num_warps=_num_warps(block),
    )
    return made


def _backward_reference(
    d_out: Tensor,
    d_total: Tensor | None,
    total: Tensor,
    weight: Tensor,
    mean: Tensor,
    rate: Tensor,
    centred: bool,
    added_dtype: torch.dtype | None,
    trained: bool,
    summed: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    grad, wide = d_out.float(), total.float()
    normal = (wide - mean[:, None] if centred else wide) * rate[:, None]
    slope = grad * weight.float()
    d_value = slope - normal * (slope * normal).mean(-1, keepdim=True)
    if centred:
        d_value = d_value - slope.mean(-1, keepdim=True)
    d_value = d_value * rate[:, None]
    if d_total is not None:
        d_value = d_value + d_total.float()
    sums = [(grad * normal).sum(0), *([grad.sum(0)] if centred else [])] if trained else []
    sums += [d_value.sum(0)] if summed else []
    parts = torch.stack(sums)[None] if sums else total.new_empty(0, dtype=torch.float32)
    d_added = total.new_empty(0) if added_dtype is None else d_value.to(added_dtype)
    return d_value.to(total.dtype), d_added, parts


def _backward_shapes(
    d_out: Tensor,
    d_total: Tensor | None,
    total: Tensor,
    weight: Tensor,
    mean: Tensor,
    rate: Tensor,
    centred: bool,
    added_dtype: torch.dtype | None,
    trained: bool,
    summed: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    sums = _num_sums(centred, trained, summed)
    return (
        torch.empty_like(total),
        total.new_empty(0) if added_dtype is None else torch.empty_like(total, dtype=added_dtype),
        total.new_empty(_num_programs(total) if sums else 0, sums, total.shape[1], dtype=torch.float32),
    )


def _backward_kernel(
    d_out: Tensor,
    d_total: Tensor | None,
    total: Tensor,
    weight: Tensor,
    mean: Tensor,
    rate: Tensor,
    centred: bool,
    added_dtype: torch.dtype | None,
    trained: bool,
    summed: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    from tunesmith.fast.kernels.norm import add_norm_backward

    made = _backward_shapes(d_out, d_total, total, weight, mean, rate, centred, added_dtype, trained, summed)
    d_x, d_added, parts = made
    rows, width = total.shape
    block = power_of_two(width)
    add_norm_backward[(_num_programs(total),)](
        d_out,
        d_total,
        total,
        weight,
        mean,
        rate,
        d_x,
        d_added,
        parts,
        rows,
        width,
        OUTER=d_total is not None,
        CENTRED=centred,
        NARROWED=added_dtype is not None,
        TRAINED=int(trained),
        SUMMED=int(summed),
        BLOCK=block,
        num_warps=_num_warps(block),
    )
    return made


def _num_programs(total: Tensor) -> int:
    """Enough for every GPU, few enough that their partial sums stay small; of the shape alone, so that a run which
    goes on elsewhere adds in the same order."""
    return min(len(total), max(256, min(1024, 2**20 // total.shape[1])))


def _num_warps(block: int) -> int:
    return max(1, min(16, block // 256))


_forward = define(
    "add_norm(Tensor x, Tensor? added, Tensor? added_bias, Tensor weight, Tensor? bias, float epsilon, bool centred, "
    "ScalarType dtype) -> (Tensor, Tensor, Tensor, Tensor)",
    cpu=_forward_reference,
    cuda=_forward_kernel,
    shapes=_forward_shapes,
)
_backward = define(
    "add_norm_backward(Tensor d_out, Tensor? d_total, Tensor total, Tensor weight, Tensor mean, Tensor rate, "
    "bool centred, ScalarType? added_dtype, bool trained, bool summed) -> (Tensor, Tensor, Tensor)",
    cpu=_backward_reference,
    cuda=_backward_kernel,
    shapes=_backward_shapes,
)
