"""Causal attention over flat batches: no token sees another document, no padding outside this module.

`attend` picks the implementation. Padded: documents of similar length are copied into padded buckets, attended with
SDPA(is_causal) and copied back; both copies are gathers, and so are their gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tunesmith.fast.layout import Bucket, FlatBatch, PaddedIndex


@dataclass(frozen=True)
class AttentionOptions:
    """How one layer attends.

    scale multiplies the scores. window: how many tokens a token sees, itself included; None means all before it.
    softcap: scores become softcap * tanh(scores / softcap).
    """

    scale: float
    window: int | None = None
    dropout: float = 0.0
    softcap: float | None = None


class FlatMask(Tensor):
    """Carries the FlatBatch to the attention layers in the place of the attention mask.

    Models hand a 4-D mask on to every layer untouched, through gradient checkpointing too. It has no elements, so that
    a layer which takes it for a real mask fails instead of attending across documents.
    """

    flat: FlatBatch

    @staticmethod
    def of(flat: FlatBatch) -> FlatMask:
        empty = torch.empty(1, 1, 0, 0, device=flat.input_ids.device)
        mask: FlatMask = empty.as_subclass(FlatMask)
        mask.flat = flat
        return mask


def attend(q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, flat: FlatBatch, options: AttentionOptions) -> Tensor:
    """Each token's attention over the tokens of its own document up to itself. Returns [T, H, D]."""
    return _attend_padded(q_THD, k_TGD, v_TGD, flat, options)


def _attend_padded(q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, flat: FlatBatch, options: AttentionOptions) -> Tensor:
    index = flat.padded
    q_PHD, k_PGD, v_PGD = (_pad(x, index) for x in (q_THD, k_TGD, v_TGD))
    outputs, begin = [], 0
    for bucket in index.buckets:
        end = begin + bucket.num_documents * bucket.length
        q_BHLD, k_BGLD, v_BGLD = (
            x[begin:end].unflatten(0, (bucket.num_documents, bucket.length)).transpose(1, 2)
            for x in (q_PHD, k_PGD, v_PGD)
        )
        out_BHLD = _attend_bucket(q_BHLD, k_BGLD, v_BGLD, bucket, options)
        outputs.append(out_BHLD.transpose(1, 2).flatten(0, 1))
        begin = end
    out_PHD = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return _unpad(out_PHD, index)


def _attend_bucket(q: Tensor, k: Tensor, v: Tensor, bucket: Bucket, options: AttentionOptions) -> Tensor:
    """SDPA of one bucket. Padding stands behind a document, so the causal mask alone keeps it out."""
    grouped = q.shape[1] != k.shape[1]
    windowed = options.window is not None and bucket.length > options.window
    if options.softcap is not None:
        return _attend_softcapped(q, k, v, options)
    mask = band_mask(bucket.length, options.window, q.device) if windowed else None
    return F.scaled_dot_product_attention(
        q, k, v, mask, options.dropout, is_causal=not windowed, scale=options.scale, enable_gqa=grouped
    )


def _attend_softcapped(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions) -> Tensor:
    """Attention with capped scores (Gemma 2), which SDPA does not offer. Holds the scores of one bucket."""
    assert options.softcap is not None
    repeats = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    scores = torch.tanh(q @ k.transpose(-1, -2) * (options.scale / options.softcap)) * options.softcap
    mask = band_mask(q.shape[2], options.window, q.device)
    weights = scores.float().masked_fill(~mask, float("-inf")).softmax(-1).to(v.dtype)
    return F.dropout(weights, options.dropout) @ v


def band_mask(length: int, window: int | None, device: torch.device) -> Tensor:
    """bool [length, length]: which tokens (columns) each token (row) sees."""
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)[None, :]
    return (distance >= 0) & (distance < (window or length))


def _pad(x: Tensor, index: PaddedIndex) -> Tensor:
    return x if index.rows_P is None else _Pad.apply(x, index.rows_P, index.slots_T)


def _unpad(x: Tensor, index: PaddedIndex) -> Tensor:
    return x if index.rows_P is None else _Unpad.apply(x, index.rows_P, index.slots_T)


class _Pad(torch.autograd.Function):
    """[T, ...] -> [P, ...]. Junk rows receive no gradient from causal attention, so backward is a gather as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows_P: Tensor, slots_T: Tensor) -> Tensor:
        ctx.save_for_backward(slots_T)
        return x.index_select(0, rows_P)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (slots_T,) = ctx.saved_tensors
        return grads[0].index_select(0, slots_T), None, None


class _Unpad(torch.autograd.Function):
    """[P, ...] -> [T, ...]. The gradient of junk rows is zero."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows_P: Tensor, slots_T: Tensor) -> Tensor:
        ctx.save_for_backward(slots_T)
        ctx.num_rows = x.shape[0]
        return x.index_select(0, slots_T)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (slots_T,) = ctx.saved_tensors
        (grad,) = grads
        return grad.new_zeros(ctx.num_rows, *grad.shape[1:]).index_copy_(0, slots_T, grad), None, None
