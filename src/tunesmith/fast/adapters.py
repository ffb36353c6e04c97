"""Low-rank adapters (Hu et al., 2021) inside the product of the layer that they sit on.

peft computes W x + s B A x as a chain whose every link reads and writes a tensor as large as the result. Here it is one
autograd node: the adapter's share is added in place by the thin product that makes it, forward and backward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.fast.device import Device
from tunesmith.fast.linear import product, wants_onednn
from tunesmith.fast.pointwise import compute_dtype


def can_fuse(layer: Any) -> bool:
    """Whether a module is peft's adapter of a plain linear layer: one, of frozen weights, no dropout, no variant."""
    from peft.tuners.lora.layer import Linear

    if type(layer) is not Linear or type(layer.base_layer) is not nn.Linear or layer.fan_in_fan_out:
        return False
    if len(layer.lora_A) != 1 or layer.lora_variant or layer.base_layer.weight.requires_grad:
        return False
    (name,) = layer.lora_A
    thin = (layer.lora_A[name], layer.lora_B[name])
    return (
        all(type(module) is nn.Linear and module.bias is None for module in thin)
        and isinstance(layer.lora_dropout[name], nn.Identity)
        and (layer.base_layer.bias is None or not layer.base_layer.bias.requires_grad)
    )


def adapted_forward(layer: Any, device: Device, original: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The forward of a layer that `can_fuse`. Every call but a plain one with gradients stays peft's."""
    plain = not (args or kwargs or layer.disable_adapters or layer.merged)
    if not (plain and torch.is_grad_enabled() and len(layer.active_adapters) == 1):
        return original(x, *args, **kwargs)  # type: ignore[no-any-return]
    (name,) = layer.active_adapters
    base, down, up = layer.base_layer, layer.lora_A[name].weight, layer.lora_B[name].weight
    scale, dtype = layer.scaling[name], compute_dtype(x)
    out: Tensor = _AdaptedLinear.apply(x, base.weight, base.bias, down, up, scale, dtype, device)
    return out


class _AdaptedLinear(torch.autograd.Function):
    """x [..., K], weight [M, K], bias [M], down [R, K], up [M, R] -> x weight^T + bias + scale x down^T up^T."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        scale: float,
        dtype: torch.dtype,
        device: Device,
    ) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            x_NK = x.to(dtype).flatten(0, -2)
            inner_NR = (x_NK @ down.to(dtype).t()).mul_(scale)
            out_NM = _linear(x_NK, weight.to(dtype), None if bias is None else bias.to(dtype), device)
            out_NM.addmm_(inner_NR, up.to(dtype).t())
        ctx.save_for_backward(x_NK, inner_NR, weight, down, up)
        ctx.scale, ctx.shape, ctx.dtype, ctx.device = scale, x.shape, x.dtype, device
        return out_NM.view(*x.shape[:-1], len(weight))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_NK, inner_NR, weight, down, up = ctx.saved_tensors
        grad_NM, dtype = grads[0].flatten(0, -2), x_NK.dtype
        d_inner_NR = (grad_NM @ up.to(dtype)).mul_(ctx.scale)
        d_x = None
        if ctx.needs_input_grad[0]:
            d_x = _linear(grad_NM, weight.to(dtype).t(), None, ctx.device)
            d_x = d_x.addmm_(d_inner_NR, down.to(dtype)).view(ctx.shape).to(ctx.dtype)
        d_down, d_up = d_inner_NR.t() @ x_NK, grad_NM.t() @ inner_NR
        return d_x, None, None, d_down.to(down.dtype), d_up.to(up.dtype), None, None, None


def _linear(left_NK: Tensor, right_MK: Tensor, bias_M: Tensor | None, device: Device) -> Tensor:
    if wants_onednn(left_NK, device):
        return product(left_NK, right_MK, bias_M)
    return torch.nn.functional.linear(left_NK, right_MK, bias_M)
