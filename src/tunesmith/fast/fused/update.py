"""AdamW over bfloat16 weights in one pass a parameter, as an operator that a trace sees: it allocates nothing."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tunesmith.fast.fused.operators import define

BLOCK = 1024


class Rates(NamedTuple):
    """The numbers of one AdamW step. kept: of the weight, beside decay. size: of the step. root: of the bias of v."""

    kept: float
    size: float
    root: float
    beta1: float
    beta2: float
    epsilon: float


def update(weight: Tensor, grad: Tensor, first: Tensor, second: Tensor, rates: Rates, seed: int) -> None:
    """Move bfloat16 weights and moments in place. The random bits follow from `seed` (31 bits) and the place alone."""
    _update(weight, grad, first, second, *rates, seed)


def update_by_bits(
    weight: Tensor, grad: Tensor, first: Tensor, second: Tensor, rates: Rates, bits_low: Tensor, bits_high: Tensor
) -> None:
    """The same with given random bits, int32 of 0 to 65,535 of the weight's shape: for the weight, for the second."""
    g, m, v, w = (tensor.float() for tensor in (grad, first, second, weight))
    m = m + (g - m) * (1.0 - rates.beta1)
    v = v * rates.beta2 + g * g * (1.0 - rates.beta2)
    w = w * rates.kept - rates.size * m / (v.sqrt() / rates.root + rates.epsilon)
    first.copy_(m)
    second.copy_(_rounded(v, bits_high))
    weight.copy_(_rounded(w, bits_low))


def _rounded(values: Tensor, bits: Tensor) -> Tensor:
    return (values.view(torch.int32) + bits).bitwise_and_(-0x10000).view(torch.float32)


def _on_cpu(
    weight: Tensor,
    grad: Tensor,
    first: Tensor,
    second: Tensor,
    kept: float,
    size: float,
    root: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    low, high = torch.randint(0, 1 << 16, (2, *weight.shape), dtype=torch.int32, generator=generator)
    update_by_bits(weight, grad, first, second, Rates(kept, size, root, beta1, beta2, epsilon), low, high)


def launch(weight: Tensor, grad: Tensor, first: Tensor, second: Tensor, *numbers: float) -> None:
    """The kernel."""
    from tunesmith.fast.kernels.update import rounding_adamw

    blocks = (-(-weight.numel() // BLOCK),)
    rounding_adamw[blocks](weight, grad.contiguous(), first, second, weight.numel(), *numbers, BLOCK=BLOCK)


_update = define(
    "rounding_adamw(Tensor(a!) weight, Tensor grad, Tensor(b!) first, Tensor(c!) second, float kept, float size, "
    "float root, float beta1, float beta2, float epsilon, int seed) -> ()",
    cpu=_on_cpu,
    cuda=launch,
    shapes=lambda *_: None,
)
