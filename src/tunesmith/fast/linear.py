"""Matrix products in float32 on processors whose fast library is not the one that torch calls.

torch's builds for x86 multiply float32 matrices with Intel's MKL, which holds back on other makers' AVX-512; oneDNN,
which is in the same builds, does not. On two Zen 4 cores, 1,024 tokens: 193 to 215 against 168 to 194 GFLOP/s for
x W^T, 202 to 214 against 163 to 197 for the gradient of x. For the gradient of W neither is better, so MKL stays.
With AVX2 alone oneDNN is the slower one: on two Zen 1 cores 13 to 15 against 29 GFLOP/s for the gradient of x.

Which library is used follows from the kind of processor alone: a run that goes on must compute as it began.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.compat import onednn_linear
from tunesmith.fast.device import Device

MIN_ROWS = 64
"""Smaller products are not worth the call."""


def wants_onednn(x: Tensor, device: Device) -> bool:
    """Whether products of x [..., K] should go to oneDNN."""
    return (
        device.onednn
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and x.numel() >= MIN_ROWS * x.shape[-1]
    )


def product(left_NK: Tensor, right_MK: Tensor, bias_M: Tensor | None = None) -> Tensor:
    """left right^T + bias by oneDNN, [..., N, M]. Either operand may be a transposed view."""
    return onednn_linear(left_NK, right_MK, bias_M)


def linear_forward(module: nn.Linear, device: Device, original: Any, x: Tensor) -> Tensor:
    """The forward of a plain linear layer. Without gradients, as in generation, it stays torch's own."""
    if torch.is_grad_enabled() and wants_onednn(x, device):
        out: Tensor = _Linear.apply(x, module.weight, module.bias)
        return out
    return original(x)  # type: ignore[no-any-return]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad_NM = grads[0].flatten(0, -2)
        d_x = product(grad_NM, weight.t()).view(x.shape) if ctx.needs_input_grad[0] else None
        d_weight = grad_NM.t() @ x.flatten(0, -2) if ctx.needs_input_grad[1] else None
        d_bias = grad_NM.sum(0) if ctx.needs_input_grad[2] else None
        return d_x, d_weight, d_bias
