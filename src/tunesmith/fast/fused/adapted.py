"""Products of frozen weights with low-rank adapters (Hu et al., 2021) beside them: x -> x W^T + b + s x A^T B^T.

The adapters of one input share the thin product that makes their inner values, and the one that takes their gradients
back to the input; each adapter's second matrix is added in place to its columns of the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tunesmith.fast.device import Device
from tunesmith.fast.fused.products import Product, wide_product
from tunesmith.fast.shadow import Copy, Shadow


@dataclass(frozen=True)
class AdaptedProduct:
    """A product whose columns (begin, end) have adapters: A [R, K] and B [M, R] each, all with the same scale.

    The copies hold all A's and all B's, one below the other, in the type of the product.
    """

    base: Product
    columns: tuple[tuple[int, int], ...]
    downs: tuple[Tensor, ...]
    ups: tuple[Tensor, ...]
    scale: float
    down_copy: Copy
    up_copy: Copy

    @property
    def device(self) -> Device:
        return self.base.device

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """What autograd is told of, in the order of `gradients`."""
        return (*self.downs, *self.ups)

    @property
    def matrices(self) -> tuple[Tensor, ...]:
        """Those of the base, then all A's and all B's in the type of the product."""
        return (*self.base.matrices, self.down_copy.buffer, self.up_copy.buffer)

    def forward(self, x: Tensor, matrices: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The product, and the adapters' inner values [T, R1 + R2 + ...]."""
        *base, down, up = matrices
        out, _ = self.base.forward(x, base)
        inner = (x @ down.t()).mul_(self.scale)
        for (begin, end), one, matrix in zip(self.columns, self._inner(inner), self._ups(up), strict=True):
            out[:, begin:end].addmm_(one, matrix.t())
        return out, (inner,)

    def input_gradient(
        self, grad: Tensor, matrices: Sequence[Tensor], kept: Sequence[Tensor]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The gradient of x, and that of the inner values."""
        *base, down, up = matrices
        d_inner = torch.empty_like(kept[0])
        for (begin, end), one, matrix in zip(self.columns, self._inner(d_inner), self._ups(up), strict=True):
            torch.mm(grad[:, begin:end], matrix, out=one)
        d_inner.mul_(self.scale)
        out, _ = self.base.input_gradient(grad, base, ())
        return out.addmm_(d_inner, down), (d_inner,)

    def gradients(
        self, grad: Tensor, x: Tensor, kept: Sequence[Tensor], wanted: Sequence[bool]
    ) -> tuple[Tensor | None, ...]:
        """The gradients of `parameters`."""
        inner, d_inner = kept
        dtype = self.downs[0].dtype
        d_downs = wide_product(d_inner.t(), x, dtype, self.device).split([len(down) for down in self.downs])
        d_ups = [
            wide_product(grad[:, begin:end].t(), one, dtype, self.device)
            for (begin, end), one in zip(self.columns, self._inner(inner), strict=True)
        ]
        return (*d_downs, *d_ups)

    def _inner(self, values: Tensor) -> tuple[Tensor, ...]:
        parts: tuple[Tensor, ...] = values.split([len(down) for down in self.downs], 1)
        return parts

    def _ups(self, up: Tensor) -> tuple[Tensor, ...]:
        parts: tuple[Tensor, ...] = up.split([end - begin for begin, end in self.columns])
        return parts


def adapted_product(base: Product, modules: Sequence[Any], shadow: Shadow, dtype: torch.dtype) -> AdaptedProduct | None:
    """The product with the adapters that `modules` have, where `adapters.can_fuse` said yes to each that has one.

    None when they differ in scale, rank or type, or when the weights beneath are trained as well.
    """
    columns, downs, ups, scales, begin = [], [], [], set(), 0
    for module, size in zip(modules, base.sizes, strict=True):
        if hasattr(module, "lora_A"):
            (name,) = module.active_adapters
            columns.append((begin, begin + size))
            downs.append(module.lora_A[name].weight)
            ups.append(module.lora_B[name].weight)
            scales.add(module.scaling[name])
        begin += size
    kinds = {(tensor.dtype, tensor.requires_grad) for tensor in (*downs, *ups)}
    if len(scales) != 1 or kinds != {(torch.float32, True)} or len({up.shape[1] for up in ups}) != 1:
        return None
    if any(parameter.requires_grad for parameter in base.parameters):
        return None
    down, up = shadow.copy(downs, dtype), shadow.copy(ups, dtype)
    return AdaptedProduct(base, tuple(columns), tuple(downs), tuple(ups), scales.pop(), down, up)
