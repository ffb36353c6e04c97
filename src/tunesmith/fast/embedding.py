"""The token embedding of a model whose head is the same matrix, with one gradient instead of two.

Autograd would make a dense [V, E] gradient for the head, another, nearly empty one for the embedding, and add them.
Here the head leaves its gradient with the embedding, which adds its few rows to it and hands one tensor to autograd:
hooks, accumulation and data-parallel reduction see exactly what they would have seen.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.compat import has_forward_hooks
from tunesmith.fast.device import Device
from tunesmith.fast.fused.rows import add_rows


class SharedGradient:
    """The head's part of the gradient of a tied weight, on its way to the embedding. One per forward pass."""

    def __init__(self) -> None:
        self._of_head: Tensor | None = None

    def put(self, gradient: Tensor) -> None:
        self._of_head = gradient if self._of_head is None else self._of_head + gradient

    def take(self, like: Tensor) -> Tensor:
        gradient, self._of_head = self._of_head, None
        return torch.zeros_like(like) if gradient is None else gradient


def can_share(embedding: nn.Module, head: nn.Module) -> bool:
    """Whether both are plain modules around one matrix that is being trained."""
    return (
        type(embedding) is nn.Embedding
        and type(head) is nn.Linear
        and embedding.weight is head.weight
        and embedding.weight.requires_grad
        and embedding.max_norm is None
        and not embedding.scale_grad_by_freq
        and not embedding.sparse
        and not has_forward_hooks(embedding)
    )


def tied_embedding(embedding: nn.Embedding, ids_T: Tensor, shared: SharedGradient, device: Device) -> Tensor:
    """Rows of the embedding, [T, E]. Its gradient is what the head put into `shared` plus its own."""
    rows: Tensor = _TiedEmbedding.apply(embedding.weight, ids_T, embedding.padding_idx, shared, device)
    return rows


class _TiedEmbedding(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, ids: Tensor, padding: int | None, shared: SharedGradient, device: Device
    ) -> Tensor:
        ctx.save_for_backward(weight, ids)
        ctx.padding, ctx.shared, ctx.device = padding, shared, device
        return weight.index_select(0, ids)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, ids = ctx.saved_tensors
        total = ctx.shared.take(weight)
        rows = grads[0]
        if ctx.padding is not None:
            rows = rows.masked_fill((ids == ctx.padding)[:, None], 0.0)
        if ctx.device.fused:
            return add_rows(total, rows, ids), None, None, None, None
        if ctx.device.is_cuda:
            # index_add_ is not deterministic there; this one sorts, as the gradient of nn.Embedding does.
            return total.index_put_((ids,), rows.to(total.dtype), accumulate=True), None, None, None, None
        return total.index_add_(0, ids, rows.to(total.dtype)), None, None, None, None
