"""SwiGLU and tanh GELU with gradients in one pass each, which give the activation's result again on the way."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tunesmith.fast.fused.operators import define

Activation = Literal["swiglu", "gelu"]
_BLOCK = 1024


def activated(kind: Activation, x: Tensor) -> Tensor:
    """swiglu: silu(gate) * up of rows [T, 2 F] that hold both. gelu: tanh GELU (Hendrycks and Gimpel, 2016)."""
    result: Tensor = _swiglu(x) if kind == "swiglu" else F.gelu(x, approximate="tanh")
    return result


def activation_backward(kind: Activation, grad: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of x, and the activation of x once more."""
    made: tuple[Tensor, Tensor] = (_swiglu_backward if kind == "swiglu" else _gelu_backward)(grad, x)
    return made


def _swiglu_reference(both: Tensor) -> Tensor:
    gate, up = both.float().chunk(2, -1)
    return (F.silu(gate) * up).to(both.dtype)


def _swiglu_backward_reference(grad: Tensor, both: Tensor) -> tuple[Tensor, Tensor]:
    gate, up = both.float().chunk(2, -1)
    share, slope = gate.sigmoid(), grad.float()
    opened = gate * share
    d_both = torch.cat((slope * up * (share + opened * (1.0 - share)), slope * opened), -1)
    return d_both.to(both.dtype), (opened * up).to(both.dtype)


def _gelu_backward_reference(grad: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    wide = x.float()
    d_x = torch.ops.aten.gelu_backward(grad.float(), wide, approximate="tanh")
    return d_x.to(x.dtype), F.gelu(wide, approximate="tanh").to(x.dtype)


def _swiglu_shapes(both: Tensor) -> Tensor:
    return both.new_empty(both.shape[0], both.shape[1] // 2)


def _backward_shapes(grad: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(grad)


def _num_blocks(num_values: int) -> tuple[int]:
    return (-(-num_values // _BLOCK),)


def _swiglu_kernel(both: Tensor) -> Tensor:
    from tunesmith.fast.kernels.gate import swiglu_forward

    out = _swiglu_shapes(both)
    swiglu_forward[_num_blocks(out.numel())](both, out, out.numel(), out.shape[1], BLOCK=_BLOCK)
    return out


def _swiglu_backward_kernel(grad: Tensor, both: Tensor) -> tuple[Tensor, Tensor]:
    from tunesmith.fast.kernels.gate import swiglu_backward

    d_both, out = _backward_shapes(grad, both)
    size = grad.shape[1]
    swiglu_backward[_num_blocks(grad.numel())](grad, both, d_both, out, grad.numel(), size, BLOCK=_BLOCK)
    return d_both, out


def _gelu_backward_kernel(grad: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    from tunesmith.fast.kernels.gate import gelu_backward

    d_x, out = _backward_shapes(grad, x)
    gelu_backward[_num_blocks(x.numel())](grad, x, d_x, out, x.numel(), BLOCK=_BLOCK)
    return d_x, out


_swiglu = define("swiglu(Tensor both) -> Tensor", cpu=_swiglu_reference, cuda=_swiglu_kernel, shapes=_swiglu_shapes)
_swiglu_backward = define(
    "swiglu_backward(Tensor grad, Tensor both) -> (Tensor, Tensor)",
    cpu=_swiglu_backward_reference,
    cuda=_swiglu_backward_kernel,
    shapes=_backward_shapes,
)
_gelu_backward = define(
    "gelu_backward(Tensor grad, Tensor x) -> (Tensor, Tensor)",
    cpu=_gelu_backward_reference,
    cuda=_gelu_backward_kernel,
    shapes=_backward_shapes,
)
