"""Variable-length flash attention on CUDA: the flat batch as it is, no padding at all.

torch.nn.attention.varlen gained its arguments over releases: 2.10 has neither scale nor window_size, 2.11 has both,
2.12 adds enable_gqa. What an installed torch lacks is done here (heads repeated) or left to the padded path.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any, cast

import torch
from torch import Tensor

from tunesmith.compat import varlen_operators
from tunesmith.fast.attending.options import AttentionOptions
from tunesmith.fast.batches.layout import FlatBatch
from tunesmith.fast.device import Device

MAX_HEAD_DIM = 256
SMALL_WIDTH = 1024
"""Up to this width the repeated heads are written where q and k are turned: the kernel would sum their gradients with
two launches more a layer, which count in small models, where the memory does not."""


@functools.cache
def _arguments() -> frozenset[str]:
    """Argument names of the installed varlen_attn; empty when torch has none."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return frozenset()
    return frozenset(inspect.signature(varlen_attn).parameters)


def varlen_fits(dtype: torch.dtype, size: int, options: AttentionOptions, device: Device) -> bool:
    """Whether flash attention computes exactly this: 16 bits, no dropout, no capped scores, a supported head size."""
    return (
        device.flash_attention
        and dtype in (torch.float16, torch.bfloat16)
        and options.dropout == 0
        and options.softcap is None
        and size % 8 == 0
        and size <= MAX_HEAD_DIM
        and {"scale", "window_size"} <= _arguments()
    )


def repeats_for(
    dtype: torch.dtype, num_heads: int, num_groups: int, size: int, options: AttentionOptions, device: Device
) -> int:
    """How often each key and value head is to be given: H / G where they should be repeated beforehand, else once."""
    lacking = "enable_gqa" not in _arguments() or num_heads * size <= SMALL_WIDTH
    repeated = varlen_fits(dtype, size, options, device) and lacking
    return num_heads // num_groups if repeated else 1


def attend_varlen(
    q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, flat: FlatBatch, options: AttentionOptions, device: Device
) -> Tensor:
    """`attention.attend` for batches that `varlen_fits`."""
    from torch.nn.attention.varlen import varlen_attn

    repeats = q_THD.shape[1] // k_TGD.shape[1]
    more: dict[str, Any] = {}
    if repeats > 1 and "enable_gqa" in _arguments():
        more["enable_gqa"] = True
    elif repeats > 1:
        k_TGD, v_TGD = k_TGD.repeat_interleave(repeats, 1), v_TGD.repeat_interleave(repeats, 1)
    windowed = options.window is not None and flat.max_length > options.window
    before = options.window - 1 if windowed and options.window is not None else -1
    if device.fused and _operators() is not None:
        lengths = (flat.cu_seqlens, flat.max_length)
        direct: Tensor = _Varlen.apply(q_THD, k_TGD, v_TGD, *lengths, options.scale, [before, 0], more)
        return direct
    out_THD = varlen_attn(
        q_THD,
        k_TGD,
        v_TGD,
        flat.cu_seqlens,
        flat.cu_seqlens,
        flat.max_length,
        flat.max_length,
        scale=options.scale,
        window_size=(before, 0),
        **more,
    )
    return cast(Tensor, out_THD)


@functools.cache
def _operators() -> tuple[Any, Any] | None:
    return varlen_operators()


class _Varlen(torch.autograd.Function):
    """varlen_attn, whose own gradient fills those of its statistics with zeros first."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cu_seqlens: Tensor,
        longest: int,
        scale: float,
        window: list[int],
        more: dict[str, Any],
    ) -> Tensor:
        operators = _operators()
        assert operators is not None
        ctx.rest = (longest, longest, window == [-1, 0])
        ctx.scale, ctx.window = scale, window
        out, sums, random = operators[0](q, k, v, cu_seqlens, cu_seqlens, *ctx.rest, scale, window, **more)
        ctx.save_for_backward(q, k, v, out, sums, cu_seqlens, random)
        return cast(Tensor, out)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        operators = _operators()
        assert operators is not None
        q, k, v, out, sums, cu_seqlens, random = ctx.saved_tensors
        d_q, d_k, d_v = operators[1](
            grads[0], q, k, v, out, sums, cu_seqlens, cu_seqlens, *ctx.rest, random, ctx.scale, ctx.window
        )
        return d_q, d_k, d_v, None, None, None, None, None
