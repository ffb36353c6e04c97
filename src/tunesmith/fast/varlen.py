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

from tunesmith.fast.device import Device
from tunesmith.fast.layout import FlatBatch
from tunesmith.fast.options import AttentionOptions

MAX_HEAD_DIM = 256


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
    """How often each key and value head must be given: H / G where the kernel would repeat them, else once."""
    repeated = varlen_fits(dtype, size, options, device) and "enable_gqa" not in _arguments()
    return num_heads // num_groups if repeated else 1


def attend_varlen(q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, flat: FlatBatch, options: AttentionOptions) -> Tensor:
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
