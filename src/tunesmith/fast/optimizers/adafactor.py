"""Adafactor (Shazeer and Stern 2018, Adaptive Learning Rates with Sublinear Memory Cost): the second moment of a matrix
is held as one number a row and one a column, and there is no first.

With the learning rate as it is given, as `transformers.optimization.Adafactor(scale_parameter=False,
relative_step=False)`: an update has at most a root mean square of 1 before the rate, so rates are of AdamW's size.
Rounded at random where weights are bfloat16.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tunesmith.fast.optimizers.rounding import RoundingAdamW, Scratch, write

EPS = 1e-30
"""Added to squares."""
DECAY = 0.8
"""The second moment of step t keeps 1 - t^-DECAY of what it was."""
CLIP = 1.0
"""Largest root mean square of an update."""


class RoundingAdafactor(RoundingAdamW):
    """Adafactor without a first moment, over weights of float32 or bfloat16."""

    def new_state(self, parameter: Tensor) -> dict[str, Tensor]:
        if parameter.ndim < 2:
            return {"square": torch.zeros_like(parameter, dtype=torch.float32)}
        rows_RC = parameter.view(-1, parameter.shape[-1])
        return {
            "row": torch.zeros(len(rows_RC), device=parameter.device),
            "column": torch.zeros(rows_RC.shape[1], device=parameter.device),
        }

    def scratch_numbers(self, parameter: Tensor) -> int:
        return parameter.numel()

    def _in_one_pass(self, parameter: Tensor) -> bool:
        return False

    def _update(self, parameter: Tensor, grad: Tensor, group: dict[str, Any], scratch: Scratch) -> None:
        state, kept = self.state[parameter], group["step"] ** -DECAY
        weight_RC, grad_RC = (tensor.view(-1, tensor.shape[-1]) for tensor in (parameter, grad))
        at_once = max(1, scratch.size // weight_RC.shape[1])
        weights, grads = weight_RC.split(at_once), grad_RC.split(at_once)
        if "row" in state:
            row_R, column_C = _moments(state["row"], state["column"], grads, kept, scratch)
        else:
            g, square, *_ = scratch.views(grad_RC.shape)
            state["square"].lerp_(torch.mul(g.copy_(grad_RC), g, out=square).add_(EPS)[0], kept)
            row_R, column_C = torch.ones(1, device=grad.device), state["square"].rsqrt()
        total = torch.zeros((), device=grad.device)
        for gradient, row in zip(grads, row_R.split(at_once), strict=True):
            total += _scaled(gradient, row, column_C, scratch).square_().sum()
        clipped = total.div_(parameter.numel()).sqrt_().div_(CLIP).clamp_(min=1.0)
        rate = float(group["lr"])
        for weight, gradient, row in zip(weights, grads, row_R.split(at_once), strict=True):
            update = _scaled(gradient, row, column_C, scratch).div_(clipped)
            write(weight, update, scratch, kept=1.0 - rate * group["weight_decay"], size=-rate)


def _moments(
    row_R: Tensor, column_C: Tensor, grads: tuple[Tensor, ...], share: float, scratch: Scratch
) -> tuple[Tensor, Tensor]:
    """Bring both up to date, and return what the gradient's rows and columns are multiplied by."""
    sum_C, at_once = torch.zeros_like(column_C), len(grads[0])
    for gradient, row in zip(grads, row_R.split(at_once), strict=True):
        g, square, *_ = scratch.views(gradient.shape)
        torch.mul(g.copy_(gradient), g, out=square).add_(EPS)
        row.lerp_(square.mean(1), share)
        sum_C += square.sum(0)
    column_C.lerp_(sum_C.div_(len(row_R)), share)
    return (row_R / row_R.mean()).rsqrt_(), column_C.rsqrt()


def _scaled(gradient: Tensor, row: Tensor, column_C: Tensor, scratch: Scratch) -> Tensor:
    """A piece of the update before it is clipped, in the first buffer."""
    g, *_ = scratch.views(gradient.shape)
    return g.copy_(gradient).mul_(row[:, None]).mul_(column_C)
