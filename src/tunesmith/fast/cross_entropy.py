"""Cross entropy of a linear head without its logits: at most one [chunk, V] buffer exists at a time.

In training the gradient is computed in the forward pass, chunk by chunk, because the logits are at hand there; backward
only scales it. Sums over positions are float32 or better in any precision.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = 256
"""Positions whose logits exist at a time on a CPU."""


def linear_cross_entropy(
    hidden_NE: Tensor, weight_VE: Tensor, bias_V: Tensor | None, targets_N: Tensor, denominator: float
) -> Tensor:
    """Sum over positions of the cross entropy of `hidden @ weight.T + bias` against targets, over `denominator`.

    Returns a float32 scalar. Gradients flow to hidden, weight and bias where they require one.
    """
    loss: Tensor = _LinearCrossEntropy.apply(hidden_NE, weight_VE, bias_V, targets_N, float(denominator))
    return loss


@torch.no_grad()
def linear_losses(
    hidden_NE: Tensor, weight_VE: Tensor, bias_V: Tensor | None, targets_N: Tensor
) -> tuple[Tensor, Tensor]:
    """Per position: the cross entropy (float32 [N]) and whether the target is the most likely token (bool [N])."""
    losses = hidden_NE.new_empty(len(targets_N), dtype=torch.float32)
    correct = hidden_NE.new_empty(len(targets_N), dtype=torch.bool)
    for begin in range(0, len(targets_N), CHUNK):
        rows = slice(begin, begin + CHUNK)
        logits = torch.nn.functional.linear(hidden_NE[rows], weight_VE, bias_V).float()
        wanted = targets_N[rows, None]
        losses[rows] = logits.logsumexp(1) - logits.gather(1, wanted).squeeze(1)
        correct[rows] = logits.argmax(1) == targets_N[rows]
    return losses, correct


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, denominator: float
    ) -> Tensor:
        dtype = _compute_dtype(hidden)
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        with torch.autocast(hidden.device.type, enabled=False):
            head = weight.to(dtype)
            offset = None if bias is None else bias.to(dtype)
            loss = hidden.new_zeros((), dtype=torch.float64)
            d_hidden = torch.empty_like(hidden) if wants_hidden else None
            d_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
            d_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and wants_bias else None
            buffer = hidden.new_empty(min(CHUNK, len(targets)), weight.shape[0], dtype=dtype)
            for begin in range(0, len(targets), CHUNK):
                rows = slice(begin, begin + CHUNK)
                chunk = hidden[rows].to(dtype)
                logits = _logits(chunk, head, offset, buffer)
                loss += _gradient_in_place(logits, targets[rows], denominator)
                if d_hidden is not None:
                    d_hidden[rows] = logits @ head
                if d_weight is not None:
                    _add_product(d_weight, logits, chunk)
                if d_bias is not None:
                    d_bias += logits.sum(0, dtype=torch.float32)
        ctx.save_for_backward(d_hidden, d_weight, d_bias)
        ctx.dtypes = (weight.dtype, None if bias is None else bias.dtype)
        return (loss / denominator).float()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        d_hidden, d_weight, d_bias = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        scale = grads[0]
        return (
            None if d_hidden is None else d_hidden * scale.to(d_hidden.dtype),
            None if d_weight is None else (d_weight * scale).to(weight_dtype),
            None if d_bias is None else (d_bias * scale).to(bias_dtype),
            None,
            None,
        )


def _compute_dtype(hidden: Tensor) -> torch.dtype:
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def _logits(chunk: Tensor, head: Tensor, offset: Tensor | None, buffer: Tensor) -> Tensor:
    out = buffer[: len(chunk)]
    if offset is None:
        return torch.mm(chunk, head.t(), out=out)
    return torch.addmm(offset, chunk, head.t(), out=out)


def _gradient_in_place(logits: Tensor, targets: Tensor, denominator: float) -> Tensor:
    """Replace the logits by the gradient of their summed cross entropy / denominator. Returns the sum (float64)."""
    wanted = targets[:, None]
    scores = logits.float()
    highest = scores.amax(1, keepdim=True)
    of_target = scores.gather(1, wanted) - highest
    scores.sub_(highest).exp_()
    total = scores.sum(1, keepdim=True)
    loss = (total.log() - of_target).sum(dtype=torch.float64)
    scores.mul_((total * denominator).reciprocal_())
    scores.scatter_add_(1, wanted, torch.full_like(of_target, -1.0 / denominator))
    if scores is not logits:
        logits.copy_(scores)
    return loss


def _add_product(total: Tensor, d_logits: Tensor, chunk: Tensor) -> None:
    if d_logits.dtype == total.dtype:
        total.addmm_(d_logits.t(), chunk)
    else:
        total.add_(d_logits.t() @ chunk)
