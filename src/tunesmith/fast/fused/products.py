"""Matrix products of one or several weights with the same input, whose gradients leave the product in their own type.

float32 weights that train are read from their narrow copies (shadow.py), side by side in one buffer: one product makes
q, k and v, one their input's gradient, one all three weights' gradients, in float32. Weights held in 16 bits are read
where they are, one product each, but in small models, where launches cost more than the memory of a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.fast.attending.varlen import SMALL_WIDTH
from tunesmith.fast.device import Device
from tunesmith.fast.fused.gates import Activation, activated, activation_backward
from tunesmith.fast.shadow import Copy, Shadow

MANY_ROWS = 2048
"""From here on a sum of rows is a product: on an H200 30 us against 44 at 16,512 x 3,072, and 21 against 14 at
1,056 x 3,072."""


@dataclass(frozen=True)
class Product:
    """x [T, K] -> x W^T + b [T, M], of weights [M1, K], [M2, K], ... with M = M1 + M2 + ...

    transposed: the weight is [K, M], as GPT-2 stores it, and the only one. The copies are None where the weights have
    the type of the product already.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    transposed: bool
    weight_copy: Copy | None
    bias_copy: Copy | None
    device: Device

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """What autograd is told of, in the order of `gradients`."""
        return (*self.weights, *self.biases)

    @property
    def matrices(self) -> tuple[Tensor, ...]:
        """The weights in the type of the product, [M, K] each."""
        found = self.weights if self.weight_copy is None else (self.weight_copy.buffer,)
        return tuple(weight.t() for weight in found) if self.transposed else tuple(weight.detach() for weight in found)

    @property
    def sizes(self) -> list[int]:
        """M1, M2, ..."""
        return [weight.shape[1] if self.transposed else weight.shape[0] for weight in self.weights]

    def forward(self, x: Tensor, matrices: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The product, and what its gradients need beside x and the matrices."""
        bias = self._bias()
        if len(matrices) == 1:
            return _product(x, matrices[0], bias), ()
        out = x.new_empty(len(x), sum(self.sizes))
        for part, matrix in zip(out.split(self.sizes, 1), matrices, strict=True):
            torch.mm(x, matrix.t(), out=part)
        return out if bias is None else out.add_(bias), ()

    def input_gradient(
        self, grad: Tensor, matrices: Sequence[Tensor], kept: Sequence[Tensor]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The gradient of x, and what the weights' gradients can use of its making."""
        if len(matrices) == 1:
            return grad @ matrices[0], ()
        parts = grad.split(self.sizes, 1)
        out = parts[0] @ matrices[0]
        for part, matrix in zip(parts[1:], matrices[1:], strict=True):
            out.addmm_(part, matrix)
        return out, ()

    def gradients(
        self, grad: Tensor, x: Tensor, kept: Sequence[Tensor], wanted: Sequence[bool]
    ) -> tuple[Tensor | None, ...]:
        """The gradients of `parameters`; None where not wanted."""
        number = len(self.weights)
        found: list[Tensor | None] = [None] * len(wanted)
        if any(wanted[:number]):
            found[:number] = self._weight_gradients(grad, x)
        if any(wanted[number:]):
            total = _column_sums(grad, self.device)
            parts = total.split([len(bias) for bias in self.biases])
            found[number:] = [part.to(bias.dtype) for part, bias in zip(parts, self.biases, strict=True)]
        return tuple(found)

    def _weight_gradients(self, grad: Tensor, x: Tensor) -> list[Tensor]:
        if self.transposed:
            return [wide_product(x.t(), grad, self.weights[0].dtype, self.device)]
        if self.weight_copy is not None:
            return list(wide_product(grad.t(), x, self.weights[0].dtype, self.device).split(self.sizes))
        return [
            wide_product(part.t(), x, weight.dtype, self.device)
            for part, weight in zip(grad.split(self.sizes, 1), self.weights, strict=True)
        ]

    def _bias(self) -> Tensor | None:
        if self.bias_copy is not None:
            return self.bias_copy.buffer
        if not self.biases:
            return None
        return self.biases[0] if len(self.biases) == 1 else torch.cat(self.biases)


def _column_sums(x_TM: Tensor, device: Device) -> Tensor:
    """float32 [M]. On a GPU a sum over many rows takes a buffer of a hundred MB, and a product with ones takes none."""
    if device.is_cuda and len(x_TM) >= MANY_ROWS and x_TM.dtype != torch.float32:
        return torch.mm(x_TM.new_ones(1, len(x_TM)), x_TM, out_dtype=torch.float32)[0]
    return x_TM.sum(0, dtype=torch.float32)


def wide_product(left: Tensor, right: Tensor, dtype: torch.dtype, device: Device) -> Tensor:
    """left right of 16-bit matrices, summed in float32 and given in `dtype`."""
    if left.dtype == dtype:
        return left @ right
    if device.is_cuda:
        return torch.mm(left, right, out_dtype=dtype)
    return left.to(dtype) @ right.to(dtype)


def linear(x_TK: Tensor, product: Any) -> Tensor:
    """x W^T + b, [T, M]."""
    out: Tensor = _Linear.apply(x_TK, product, *product.parameters)
    return out


def activated_linear(x_TF: Tensor, kind: Activation, product: Any) -> Tensor:
    """The product of activation(x), of which only x is kept: backward computes the activation again."""
    out: Tensor = _ActivatedLinear.apply(x_TF, kind, product, *product.parameters)
    return out


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, product: Product, *parameters: Tensor) -> Tensor:
        matrices = product.matrices
        out, kept = product.forward(x, matrices)
        ctx.save_for_backward(x, *matrices, *kept)
        ctx.product, ctx.num_matrices = product, len(matrices)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, matrices, kept = _saved(ctx)
        d_x, made = None, ()
        if ctx.needs_input_grad[0] or kept:
            d_x, made = ctx.product.input_gradient(grads[0], matrices, kept)
        found = ctx.product.gradients(grads[0], x, (*kept, *made), ctx.needs_input_grad[2:])
        return d_x, None, *found


class _ActivatedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kind: Activation, product: Product, *parameters: Tensor) -> Tensor:
        matrices = product.matrices
        out, kept = product.forward(activated(kind, x), matrices)
        ctx.save_for_backward(x, *matrices, *kept)
        ctx.product, ctx.num_matrices, ctx.kind = product, len(matrices), kind
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, matrices, kept = _saved(ctx)
        d_inner, made = ctx.product.input_gradient(grads[0], matrices, kept)
        d_x, inner = activation_backward(ctx.kind, d_inner, x)
        del d_inner
        found = ctx.product.gradients(grads[0], inner, (*kept, *made), ctx.needs_input_grad[3:])
        return d_x, None, None, *found


def _saved(ctx: Any) -> tuple[Tensor, Sequence[Tensor], Sequence[Tensor]]:
    x, *rest = ctx.saved_tensors
    return x, rest[: ctx.num_matrices], rest[ctx.num_matrices :]


def _product(x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    return x @ matrix.t() if bias is None else torch.addmm(bias, x, matrix.t())


def product_of(
    modules: Sequence[nn.Module], shadow: Shadow, dtype: torch.dtype, *, with_bias: bool = True
) -> Product | None:
    """The product of plain linear layers that have the same input; None when one is of another kind.

    with_bias: add the biases here. Without, whoever uses the product adds them.
    """
    from transformers.pytorch_utils import Conv1D

    transposed = type(modules[0]) is Conv1D
    if (transposed and len(modules) > 1) or not all(type(module) in (nn.Linear, Conv1D) for module in modules):
        return None
    weights: tuple[Tensor, ...] = tuple(module.weight for module in modules)  # type: ignore[misc]
    biases: tuple[Tensor, ...] = tuple(module.bias for module in modules if module.bias is not None)  # type: ignore[misc]
    if (with_bias and biases and len(biases) < len(modules)) or not _alike(weights) or not _alike(biases):
        return None
    biases = biases if with_bias else ()
    narrow = weights[0].dtype == dtype and (len(weights) == 1 or weights[0].shape[1] > SMALL_WIDTH)
    if weights[0].dtype != dtype and weights[0].dtype != torch.float32:
        return None
    return Product(
        weights,
        biases,
        transposed,
        None if narrow else shadow.copy(weights, dtype),
        None if not biases or biases[0].dtype == dtype else shadow.copy(biases, dtype),
        shadow.device,
    )


def _alike(tensors: Sequence[Tensor]) -> bool:
    kinds = {(tensor.dtype, tensor.requires_grad, tensor.is_contiguous(), type(tensor)) for tensor in tensors}
    return len(kinds) <= 1
