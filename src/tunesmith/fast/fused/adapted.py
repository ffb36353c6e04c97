"""Products of frozen weights with low-rank adapters (Hu et al., 2021) beside them: x -> x W^T + b + s x A^T B^T.

W and all A's of one input lie below each other in one narrow copy where there is one: their product gives the result
of the weights and the adapters' inner values at once, and with the gradients of both side by side that of the input.
What is left of the adapters is thin, and takes one launch for all of them (thin.py). With many tokens a step, launches
do not count: then the gradients of both are not put side by side, and each thin gradient is a product of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tunesmith.fast.attending.varlen import SMALL_WIDTH
from tunesmith.fast.device import Device
from tunesmith.fast.fused.products import Product, wide_product
from tunesmith.fast.fused.thin import MAX_ADAPTERS, MAX_INNER, adapter_gradients, add_adapters, inner_gradient
from tunesmith.fast.shadow import Copy, Shadow

FEW_ROWS = 4096
"""Up to so many tokens fewer launches are worth more than less reading and writing. Assumed."""


@dataclass(frozen=True)
class AdaptedProduct:
    """A product whose columns (begin, end, begin, end, ...) have adapters: A [R, K] and B [M, R] each, of one rank and
    one scale.

    up_copy holds all B's. both_copy holds the weights, then all A's; where it is None, base holds the weights and
    down_copy all A's.
    """

    base: Product
    columns: tuple[int, ...]
    downs: tuple[Tensor, ...]
    ups: tuple[Tensor, ...]
    scale: float
    up_copy: Copy
    down_copy: Copy | None
    both_copy: Copy | None
    bias_copy: Copy | None

    @property
    def device(self) -> Device:
        return self.base.device

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """What autograd is told of, in the order of `gradients`."""
        return (*self.downs, *self.ups)

    @property
    def matrices(self) -> tuple[Tensor, ...]:
        """All B's; then the weights with all A's below, or all A's and the weights."""
        if self.both_copy is not None:
            return (self.up_copy.buffer, self.both_copy.buffer)
        assert self.down_copy is not None
        return (self.up_copy.buffer, self.down_copy.buffer, *self.base.matrices)

    def forward(self, x: Tensor, matrices: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The product, and the adapters' inner values [T, R1 + R2 + ...], times the scale."""
        up, *rest = matrices
        if self.both_copy is not None:
            both = x @ rest[0].t() if self.bias_copy is None else torch.addmm(self.bias_copy.buffer, x, rest[0].t())
            number = sum(self.base.sizes)
            values, inner = both[:, :number], both[:, number:]
        else:
            values, _ = self.base.forward(x, rest[1:])
            inner = x @ rest[0].t()
        out, scaled = add_adapters(values, inner, up, self.columns, self.scale)
        return out, (scaled,)

    def input_gradient(
        self, grad: Tensor, matrices: Sequence[Tensor], kept: Sequence[Tensor]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The gradient of x, and that of the inner values."""
        up, *rest = matrices
        number = grad.shape[1]
        if self.both_copy is not None and len(grad) <= FEW_ROWS:
            both = inner_gradient(grad, up, self.columns, self.scale, True)
            return both @ rest[0], (both[:, number:],)
        d_inner = inner_gradient(grad, up, self.columns, self.scale, False)
        if self.both_copy is not None:
            out, down = grad @ rest[0][:number], rest[0][number:]
        else:
            (out, _), down = self.base.input_gradient(grad, rest[1:], ()), rest[0]
        return out.addmm_(d_inner, down), (d_inner,)

    def gradients(
        self, grad: Tensor, x: Tensor, kept: Sequence[Tensor], wanted: Sequence[bool]
    ) -> tuple[Tensor | None, ...]:
        """The gradients of `parameters`."""
        inner, d_inner = kept
        pairs = list(zip(self.columns[::2], self.columns[1::2], strict=True))
        num_downs = [len(down) for down in self.downs]
        if len(grad) <= FEW_ROWS:
            d_down, d_up = adapter_gradients(grad, x, inner, d_inner, self.columns)
            return (*d_down.split(num_downs), *d_up.split([end - begin for begin, end in pairs]))
        d_down = wide_product(d_inner.t(), x, torch.float32, self.device)
        d_ups = [
            wide_product(grad[:, begin:end].t(), one, torch.float32, self.device)
            for (begin, end), one in zip(pairs, inner.split(num_downs, 1), strict=True)
        ]
        return (*d_down.split(num_downs), *d_ups)


def adapted_product(base: Product, modules: Sequence[Any], shadow: Shadow, dtype: torch.dtype) -> AdaptedProduct | None:
    """The product with the adapters that `modules` have, where `adapters.can_fuse` said yes to each that has one.

    None when they differ in scale, rank or type, or when the weights beneath are trained as well.
    """
    columns, downs, ups, scales, begin = [], [], [], set(), 0
    for module, size in zip(modules, base.sizes, strict=True):
        if hasattr(module, "lora_A"):
            (name,) = module.active_adapters
            columns += [begin, begin + size]
            downs.append(module.lora_A[name].weight)
            ups.append(module.lora_B[name].weight)
            scales.add(module.scaling[name])
        begin += size
    kinds = {(tensor.dtype, tensor.requires_grad) for tensor in (*downs, *ups)}
    num_inner = sum(len(down) for down in downs)
    if len(scales) != 1 or kinds != {(torch.float32, True)} or len({up.shape[1] for up in ups}) != 1:
        return None
    if num_inner > MAX_INNER or len(ups) > MAX_ADAPTERS or any(tensor.requires_grad for tensor in base.parameters):
        return None
    up_copy = shadow.copy(ups, dtype)
    made = (base, tuple(columns), tuple(downs), tuple(ups), scales.pop(), up_copy)
    # Rows of the result must begin at a multiple of 16 bytes.
    if num_inner % 8 or begin % 8 or not (base.weight_copy or min(base.weights[0].shape) <= SMALL_WIDTH):
        return AdaptedProduct(*made, shadow.copy(downs, dtype), None, None)
    both = shadow.copy((*base.weights, *downs), dtype)
    bias = shadow.copy(base.biases, dtype, begin + num_inner) if base.biases else None
    return AdaptedProduct(*made, None, both, bias)
