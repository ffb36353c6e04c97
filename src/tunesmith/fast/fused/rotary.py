"""Queries, keys and values out of the rows [T, (H + 2 G) D] of one product: turned in one pass, or only viewed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tunesmith.fast.fused.operators import define, power_of_two


@dataclass(frozen=True)
class Heads:
    """H query heads, G key and value heads, of D dimensions. repeats: how often each of the G is given, H / G where the
    attention kernel wants as many of them as of query heads."""

    num_heads: int
    num_groups: int
    size: int
    repeats: int = 1


def turned_heads(qkv_TM: Tensor, cos_TD: Tensor, sin_TD: Tensor, heads: Heads) -> tuple[Tensor, Tensor, Tensor]:
    """q [T, H, D], k and v [T, G, D]; q and k with their rotary embedding (dimension i paired with i + D/2).

    cos and sin hold the same values in both halves.
    """
    out: tuple[Tensor, Tensor, Tensor] = _TurnedHeads.apply(qkv_TM, cos_TD.contiguous(), sin_TD.contiguous(), heads)
    return out


def plain_heads(qkv_TM: Tensor, heads: Heads) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v [T, H, D] as views; their gradient is put together in one pass."""
    out: tuple[Tensor, Tensor, Tensor] = _PlainHeads.apply(qkv_TM, heads)
    return out


class _TurnedHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, heads: Heads) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = _forward(qkv, cos, sin, heads.num_heads, heads.num_groups, heads.repeats)
        if heads.repeats == 1:
            v = qkv[:, -heads.num_groups * heads.size :].unflatten(1, (heads.num_groups, heads.size))
        ctx.save_for_backward(cos, sin)
        ctx.heads = heads
        return q, k, v

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        d_q, d_k, d_v = (grad.contiguous() for grad in grads)
        return _backward(d_q, d_k, d_v, cos, sin, ctx.heads.repeats), None, None, None


class _PlainHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: Heads) -> tuple[Tensor, ...]:
        numbers = (heads.num_heads, heads.num_groups, heads.num_groups)
        ctx.set_materialize_grads(True)
        q, k, v = qkv.unflatten(1, (-1, heads.size)).split(numbers, 1)
        return q, k, v

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return torch.cat([grad.flatten(1) for grad in grads], 1), None


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high = x.float().chunk(2, -1)
    c, s = (table[:, None, : table.shape[-1] // 2].float() for table in (cos, sin))
    return torch.cat((low * c - high * s, high * c + low * s), -1).to(x.dtype)


def _forward_reference(
    qkv: Tensor, cos: Tensor, sin: Tensor, num_heads: int, num_groups: int, repeats: int
) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = qkv.unflatten(1, (-1, cos.shape[1])).split((num_heads, num_groups, num_groups), 1)
    k = _turn(k, cos, sin).repeat_interleave(repeats, 1)
    return _turn(q, cos, sin), k, v.repeat_interleave(repeats, 1) if repeats > 1 else v.new_empty(0)


def _backward_reference(d_q: Tensor, d_k: Tensor, d_v: Tensor, cos: Tensor, sin: Tensor, repeats: int) -> Tensor:
    d_k, d_v = (grad.float().unflatten(1, (-1, repeats)).sum(2) for grad in (d_k, d_v))
    turned = _turn(torch.cat((d_q.float(), d_k), 1), cos, -sin)
    return torch.cat((turned, d_v), 1).flatten(1).to(d_q.dtype)


def _forward_shapes(
    qkv: Tensor, cos: Tensor, sin: Tensor, num_heads: int, num_groups: int, repeats: int
) -> tuple[Tensor, Tensor, Tensor]:
    rows, size = qkv.shape[0], cos.shape[1]
    return (
        qkv.new_empty(rows, num_heads, size),
        qkv.new_empty(rows, num_groups * repeats, size),
        qkv.new_empty(rows, num_groups * repeats, size) if repeats > 1 else qkv.new_empty(0),
    )


def _backward_shapes(d_q: Tensor, d_k: Tensor, d_v: Tensor, cos: Tensor, sin: Tensor, repeats: int) -> Tensor:
    rows, num_heads, size = d_q.shape
    return d_q.new_empty(rows, (num_heads + 2 * (d_k.shape[1] // repeats)) * size)


def _blocks(num_heads: int, num_groups: int, size: int, repeats: int) -> dict[str, int]:
    heads, half = power_of_two(num_heads + num_groups), power_of_two(size // 2)
    return {
        "REPEATS": repeats,
        "HEADS": heads,
        "GROUPS": power_of_two(num_groups),
        "HALF": half,
        "num_warps": max(1, min(8, heads * half // 512)),
    }


def _forward_kernel(
    qkv: Tensor, cos: Tensor, sin: Tensor, num_heads: int, num_groups: int, repeats: int
) -> tuple[Tensor, Tensor, Tensor]:
    from tunesmith.fast.kernels.rotary import rotate_forward

    q, k, v = made = _forward_shapes(qkv, cos, sin, num_heads, num_groups, repeats)
    size = cos.shape[1]
    blocks = _blocks(num_heads, num_groups, size, repeats)
    rotate_forward[(len(qkv),)](qkv, cos, sin, q, k, v, num_heads, num_groups, size, **blocks)
    return made


def _backward_kernel(d_q: Tensor, d_k: Tensor, d_v: Tensor, cos: Tensor, sin: Tensor, repeats: int) -> Tensor:
    from tunesmith.fast.kernels.rotary import rotate_backward

    d_qkv = _backward_shapes(d_q, d_k, d_v, cos, sin, repeats)
    _, num_heads, size = d_q.shape
    num_groups = d_k.shape[1] // repeats
    blocks = _blocks(num_heads, num_groups, size, repeats)
    rotate_backward[(len(d_q),)](d_q, d_k, d_v, cos, sin, d_qkv, num_heads, num_groups, size, **blocks)
    return d_qkv


_forward = define(
    "turned_heads(Tensor qkv, Tensor cos, Tensor sin, int num_heads, int num_groups, int repeats) "
    "-> (Tensor, Tensor, Tensor)",
    cpu=_forward_reference,
    cuda=_forward_kernel,
    shapes=_forward_shapes,
)
_backward = define(
    "turned_heads_backward(Tensor d_q, Tensor d_k, Tensor d_v, Tensor cos, Tensor sin, int repeats) -> Tensor",
    cpu=_backward_reference,
    cuda=_backward_kernel,
    shapes=_backward_shapes,
)
