"""The element-wise parts of a layer with their gradients in few passes over memory.

transformers writes these as chains of small operations, each of which reads and writes the whole tensor and keeps its
input for backward. Here each is one autograd node that keeps only what its gradient needs. `Kernels.compiled()` lets
torch.compile fuse every pass further; it pays on CUDA, where each pass is a launch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tunesmith.fast.device import CPU, Device


def compute_dtype(x: Tensor) -> torch.dtype:
    """The type in which autocast multiplies matrices; without autocast that of x."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def attention_dtype(x: Tensor, device: Device) -> torch.dtype:
    """The type in which attention is computed: SDPA's backward in bfloat16 takes 3x as long as in float32 on a CPU."""
    return compute_dtype(x) if device.is_cuda else torch.promote_types(x.dtype, torch.float32)


def narrow(x: Tensor) -> Tensor:
    """x in the type of the matrix products that follow. Autocast would convert it before each of them."""
    return x.to(compute_dtype(x))


def _norm_forward(x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    wide = x.float()
    rate = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_()
    rate = rate.div_(x.shape[-1]).add_(epsilon).rsqrt_()
    normal = wide * rate
    if x.dtype == torch.float32:
        return normal.mul_(weight).to(dtype), rate
    return (normal.to(x.dtype) * weight).to(dtype), rate


def _norm_backward(grad: Tensor, x: Tensor, weight: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
    grad, width = grad.float(), x.shape[-1]
    normal = x.float() * rate
    product = grad * normal
    d_weight = product.reshape(-1, width).sum(0)
    along = torch.mv(product.reshape(-1, width), weight.float()).view(rate.shape).div_(width)
    d_x = torch.mul(grad, weight, out=product)
    return d_x.sub_(normal.mul_(along)).mul_(rate), d_weight


def _turn(x: Tensor, cos: Tensor, sin: Tensor, sign: int, dtype: torch.dtype) -> Tensor:
    half = x.shape[-1] // 2
    out = x * cos
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-sign)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:], value=sign)
    return out.to(dtype)


def _gate_forward(gate: Tensor, up: Tensor) -> Tensor:
    return F.silu(gate).mul_(up)


def _gate_backward(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ops.aten.silu_backward(grad * up, gate), F.silu(gate).mul_(grad)


@dataclass(frozen=True)
class Kernels:
    """The passes behind `rms_norm`, `rotate` and `gate`, as they are or compiled, and what the device can do."""

    norm_forward: Callable[..., tuple[Tensor, Tensor]] = _norm_forward
    norm_backward: Callable[..., tuple[Tensor, Tensor]] = _norm_backward
    turn: Callable[..., Tensor] = _turn
    gate_forward: Callable[..., Tensor] = _gate_forward
    gate_backward: Callable[..., tuple[Tensor, Tensor]] = _gate_backward
    device: Device = CPU

    @staticmethod
    @functools.cache
    def compiled(device: Device) -> Kernels:
        """Compiled on first use; token counts are dynamic, so that a new batch does not compile again."""
        return Kernels(
            torch.compile(_norm_forward, dynamic=True),
            torch.compile(_norm_backward, dynamic=True),
            torch.compile(_turn, dynamic=True),
            torch.compile(_gate_forward, dynamic=True),
            torch.compile(_gate_backward, dynamic=True),
            device,
        )


EAGER = Kernels()


def rms_norm(x: Tensor, weight: Tensor, epsilon: float, kernels: Kernels = EAGER) -> Tensor:
    """weight * x / rms(x) over the last dimension, computed in float32 (Zhang and Sennrich, 2019).

    Returns the type of the matrix products that follow.
    """
    out: Tensor = _RmsNorm.apply(x, weight, epsilon, compute_dtype(x), kernels)
    return out


def rotate(x_THD: Tensor, cos_T1D: Tensor, sin_T1D: Tensor, kernels: Kernels = EAGER) -> Tensor:
    """Rotary embedding of a whole head, dimension i paired with i + D/2 (Su et al., 2021).

    cos and sin hold the same values in both halves, as every rotary embedding of transformers gives them. Returns the
    type in which attention is computed.
    """
    out: Tensor = _Rotate.apply(x_THD, cos_T1D, sin_T1D, attention_dtype(x_THD, kernels.device), kernels)
    return out


def gate(gate_TE: Tensor, up_TE: Tensor, kernels: Kernels = EAGER) -> Tensor:
    """silu(gate) * up (Shazeer, 2020)."""
    out: Tensor = _Gate.apply(gate_TE, up_TE, kernels)
    return out


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype, kernels: Kernels) -> Tensor:
        out, rate = kernels.norm_forward(x, weight, epsilon, dtype)
        ctx.save_for_backward(x, weight, rate)
        ctx.kernels = kernels
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        x, weight, rate = ctx.saved_tensors
        d_x, d_weight = ctx.kernels.norm_backward(grads[0], x, weight, rate)
        return d_x.to(x.dtype), d_weight.to(weight.dtype), None, None, None


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, dtype: torch.dtype, kernels: Kernels) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.kernels, ctx.dtype = kernels, x.dtype
        return kernels.turn(x, cos, sin, 1, dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        cos, sin = ctx.saved_tensors
        return ctx.kernels.turn(grads[0], cos, sin, -1, ctx.dtype), None, None, None, None


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, kernels: Kernels) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.kernels = kernels
        return kernels.gate_forward(gate, up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        gate, up = ctx.saved_tensors
        d_gate, d_up = ctx.kernels.gate_backward(grads[0], gate, up)
        return d_gate, d_up, None
