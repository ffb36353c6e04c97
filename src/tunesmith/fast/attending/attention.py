"""Causal attention over flat batches: no token sees another document, no padding outside this module.

`attend` picks the implementation: variable-length flash attention on CUDA where it can express the layer, padded
buckets elsewhere. Padded: neighbouring documents of similar length are copied into a rectangle, attended with
SDPA(is_causal) and copied back; both copies are gathers, and so are their gradients.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tunesmith.compat import as_subclass
from tunesmith.fast.attending.cached import CachedBatch
from tunesmith.fast.attending.options import AttentionOptions
from tunesmith.fast.attending.varlen import attend_varlen, varlen_fits
from tunesmith.fast.batches.layout import Bucket, FlatBatch
from tunesmith.fast.device import Device
from tunesmith.fast.pointwise import attention_dtype, compute_dtype

_NOTHING = torch.empty(1, 1, 0, 0)


class FlatMask(Tensor):
    """Carries the FlatBatch to the layers in the place of the attention mask.

    Models hand a 4-D mask on to every layer untouched, through gradient checkpointing too. It has no elements, so that
    a layer which takes it for a real mask fails instead of attending across documents.
    """

    flat: FlatBatch

    @staticmethod
    def of(flat: FlatBatch | CachedBatch) -> FlatMask:
        device = flat.input_ids.device
        nothing = _NOTHING if device.type == "cpu" else torch.empty(1, 1, 0, 0, device=device)
        mask = as_subclass(nothing, FlatMask)
        mask.flat = flat  # type: ignore[assignment]  # layers only hand it on
        return mask


def attend(
    q_THD: Tensor,
    k_TGD: Tensor,
    v_TGD: Tensor,
    flat: FlatBatch | CachedBatch,
    options: AttentionOptions,
    device: Device,
) -> Tensor:
    """Each token's attention over the tokens of its own document up to itself. Returns [T, H, D]."""
    if isinstance(flat, CachedBatch):
        return flat.attend(q_THD, k_TGD, v_TGD, options)
    dtype, wanted = attention_dtype(q_THD, device), compute_dtype(v_TGD)
    q_THD, k_TGD, v_TGD = q_THD.to(dtype), k_TGD.to(dtype), v_TGD.to(dtype)
    if varlen_fits(dtype, q_THD.shape[-1], options, device):
        return attend_varlen(q_THD, k_TGD, v_TGD, flat, options, device)
    with torch.autocast(q_THD.device.type, enabled=False):
        return _attend_padded(q_THD, k_TGD, v_TGD, flat, options, device).to(wanted)


def _attend_padded(
    q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, flat: FlatBatch, options: AttentionOptions, device: Device
) -> Tensor:
    buckets, outputs = flat.buckets, []
    for padded in zip(_pad(q_THD, buckets), _pad(k_TGD, buckets), _pad(v_TGD, buckets), strict=True):
        q, k, v = (x_BLHD.transpose(1, 2) for x_BLHD in padded)
        outputs.append(_attend_bucket(q, k, v, options, device).transpose(1, 2))
    return _unpad(outputs, buckets)


def _attend_bucket(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions, device: Device) -> Tensor:
    """Attention of one bucket, [B, H, L, D]. Padding stands behind a document, so the causal mask keeps it out."""
    length = q.shape[2]
    if options.softcap is not None:
        return _attend_softcapped(q, k, v, options)
    windowed = options.window is not None and length > options.window
    mask = band_mask(length, options.window, q.device) if windowed else None
    grouped = q.shape[1] != k.shape[1]
    flash = device.flash_attention and mask is None and q.dtype in (torch.float16, torch.bfloat16)
    if grouped and device.is_cuda and not flash:  # torch's other kernel knows no groups, and without it scores are held
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
        grouped = False
    return F.scaled_dot_product_attention(
        q, k, v, mask, options.dropout, is_causal=not windowed, scale=options.scale, enable_gqa=grouped
    )


def _attend_softcapped(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions) -> Tensor:
    """Attention with capped scores (Gemma 2), which SDPA does not offer. Holds the scores of one bucket."""
    assert options.softcap is not None
    repeats = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    scores = torch.tanh(q @ k.transpose(-1, -2) * (options.scale / options.softcap)) * options.softcap
    seen = band_mask(q.shape[2], options.window, q.device)
    weights = scores.float().masked_fill(~seen, float("-inf")).softmax(-1).to(v.dtype)
    return F.dropout(weights, options.dropout) @ v


def band_mask(length: int, window: int | None, device: torch.device) -> Tensor:
    """bool [length, length]: which tokens (columns) each token (row) sees."""
    position = torch.arange(length, device=device)
    distance = position[:, None] - position
    return (distance >= 0) & (distance < (window or length))


def _pad(x: Tensor, buckets: list[Bucket]) -> tuple[Tensor, ...]:
    """[T, ...] -> one [B, L, ...] per bucket."""
    if len(buckets) == 1 and buckets[0].rows is None:
        return (x.unflatten(0, (buckets[0].num_documents, buckets[0].length)),)
    padded: tuple[Tensor, ...] = _Pad.apply(x, buckets)
    return padded


def _unpad(outputs: list[Tensor], buckets: list[Bucket]) -> Tensor:
    """One [B, L, ...] per bucket -> [T, ...]."""
    if len(buckets) == 1 and buckets[0].slots is None:
        return outputs[0].flatten(0, 1)
    flat: Tensor = _Unpad.apply(buckets, *outputs)
    return flat


def _gather(x: Tensor, index: Tensor | None, out: Tensor) -> None:
    if index is None:
        out.copy_(x)
    else:
        torch.index_select(x, 0, index, out=out)


class _Pad(torch.autograd.Function):
    """Junk rows receive no gradient from causal attention, so backward is a gather as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, buckets: list[Bucket]) -> tuple[Tensor, ...]:
        ctx.buckets, ctx.num_rows = buckets, x.shape[0]
        outputs = []
        for bucket in buckets:
            out = x.new_empty(bucket.num_documents * bucket.length, *x.shape[1:])
            _gather(x[bucket.begin : bucket.end], bucket.rows, out)
            outputs.append(out.unflatten(0, (bucket.num_documents, bucket.length)))
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].new_empty(ctx.num_rows, *grads[0].shape[2:])
        for bucket, grad in zip(ctx.buckets, grads, strict=True):
            _gather(grad.flatten(0, 1), bucket.slots, total[bucket.begin : bucket.end])
        return total, None


class _Unpad(torch.autograd.Function):
    """The gradient of a junk row is zero."""

    @staticmethod
    def forward(ctx: Any, buckets: list[Bucket], *outputs: Tensor) -> Tensor:
        ctx.buckets = buckets
        flat = outputs[0].new_empty(buckets[-1].end, *outputs[0].shape[2:])
        for bucket, output in zip(buckets, outputs, strict=True):
            _gather(output.flatten(0, 1), bucket.slots, flat[bucket.begin : bucket.end])
        return flat

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        padded = []
        for bucket in ctx.buckets:
            rows = grads[0][bucket.begin : bucket.end]
            if bucket.slots is not None:
                filled = rows.new_zeros(bucket.num_documents * bucket.length, *rows.shape[1:])
                rows = filled.index_copy_(0, bucket.slots, rows)
            padded.append(rows.unflatten(0, (bucket.num_documents, bucket.length)))
        return None, *padded
