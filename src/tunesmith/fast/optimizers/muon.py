"""Muon (Jordan et al. 2024, Muon: An optimizer for hidden layers in neural networks): the momentum of a matrix is made
nearly orthogonal before it is added, so that all its directions are learned at one speed. One moment instead of two.

For the matrices inside the layers alone; embeddings, head, norms and biases are AdamW's, as its authors say. The size
of an update is that of AdamW's (Liu et al. 2025, Muon is Scalable for LLM Training), so that one learning rate suits
both. Same formula as `torch.optim.Muon(adjust_lr_fn="match_rms_adamw")`, of which older releases of torch know nothing;
rounded at random where weights are bfloat16.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.fast.optimizers.rounding import RoundingAdamW, Scratch, chunks, write

MOMENTUM = 0.95
ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic that each iteration applies to the singular values: steep at 0, near 1 above."""
EPS = 1e-7
SIZE = 0.2
"""Root mean square of an update of AdamW."""


class RoundingMuon(RoundingAdamW):
    """Muon in the parameter groups that say `muon`, AdamW in others; weights of float32 or bfloat16."""

    def new_state(self, parameter: Tensor) -> dict[str, Tensor]:
        if not self._is_muon(parameter):
            return super().new_state(parameter)
        return {"momentum": torch.zeros_like(parameter, memory_format=torch.preserve_format)}

    def _is_muon(self, parameter: Tensor) -> bool:
        return bool(self._numbered[parameter][1].get("muon"))

    def _in_one_pass(self, parameter: Tensor) -> bool:
        return not self._is_muon(parameter) and super()._in_one_pass(parameter)

    def _update(self, parameter: Tensor, grad: Tensor, group: dict[str, Any], scratch: Scratch) -> None:
        if not group.get("muon"):
            super()._update(parameter, grad, group, scratch)
            return
        held = self.state[parameter]["momentum"]
        gradient = grad.float()
        momentum = held.float().lerp_(gradient, 1.0 - MOMENTUM)  # of float32 the same tensor
        held.copy_(momentum)
        update_RC = orthogonal(gradient.lerp(momentum, MOMENTUM))
        del gradient, momentum
        rate = float(group["lr"])
        size = -rate * SIZE * math.sqrt(max(parameter.shape))
        for weight, update in chunks(parameter, update_RC, size=scratch.size):
            g, *_ = scratch.views(weight.shape)
            write(weight, g.copy_(update), scratch, kept=1.0 - rate * group["weight_decay"], size=size)


def orthogonal(matrix: Tensor) -> Tensor:
    """Nearly U V^T of a matrix U S V^T, by five Newton-Schulz iterations in bfloat16."""
    a, b, c = COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    x_RC = matrix.bfloat16()
    x_RC = x_RC.T if is_tall else x_RC
    x_RC = x_RC / x_RC.norm().clamp(min=EPS)
    for _ in range(ITERATIONS):
        gram_RR = x_RC @ x_RC.T
        x_RC = torch.addmm(x_RC, torch.addmm(gram_RR, gram_RR, gram_RR, beta=b, alpha=c), x_RC, beta=a)
    return (x_RC.T if is_tall else x_RC).contiguous()


def mark_layers(model: nn.Module) -> None:
    """Let the matrices inside a list of layers be known: what Muon is for."""
    for module in model.modules():
        if isinstance(module, nn.ModuleList):
            for parameter in module.parameters():
                parameter.in_layer = True  # type: ignore[attr-defined]


def is_hidden_matrix(parameter: Tensor) -> bool:
    """Whether a parameter is a matrix that `mark_layers` found."""
    return parameter.ndim == 2 and getattr(parameter, "in_layer", False)
