"""AdamW with moments of 8 bits (Dettmers et al. 2022, 8-bit Optimizers via Block-wise Quantization): bitsandbytes'
kernel on a float32 copy of a piece of the weights at a time, rounded at random where weights are bfloat16.

bitsandbytes' own optimizer writes the sum back to a bfloat16 weight rounded to nearest, which loses what is smaller
than half its last digit, every time: a model that came to a held-out loss of 3.958 otherwise came to 4.236 so.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tunesmith.fast.optimizers import rounding
from tunesmith.fast.optimizers.rounding import RoundingAdamW, Scratch, chunks, store

BLOCK = 256
"""Numbers that share a scale."""
SMALLEST = 4096
"""Parameters with fewer numbers keep moments in float32."""


def has_bitsandbytes() -> bool:
    """Whether the library is installed; nothing is imported."""
    return importlib.util.find_spec("bitsandbytes") is not None


class RoundingAdamW8bit(RoundingAdamW):
    """`RoundingAdamW` whose moments take a byte a number, and a scale for 256 of them."""

    def new_state(self, parameter: Tensor) -> dict[str, Tensor]:
        number, device = parameter.numel(), parameter.device
        if number < SMALLEST:
            return {name: torch.zeros_like(parameter, dtype=torch.float32) for name in ("exp_avg", "exp_avg_sq")}
        blocks = -(-number // BLOCK)
        return {
            "state1": torch.zeros(number, dtype=torch.uint8, device=device),
            "state2": torch.zeros(number, dtype=torch.uint8, device=device),
            "absmax1": torch.zeros(blocks, device=device),
            "absmax2": torch.zeros(blocks, device=device),
        }

    def scratch_numbers(self, parameter: Tensor) -> int:
        in_place = parameter.dtype == torch.float32 and parameter.numel() >= SMALLEST
        return 0 if in_place else parameter.numel()

    def _in_one_pass(self, parameter: Tensor) -> bool:
        """Moments of few numbers are float32, others bytes: neither is the kernel's."""
        return False

    def _update(self, parameter: Tensor, grad: Tensor, group: dict[str, Any], scratch: Scratch) -> None:
        state = self.state[parameter]
        if "state1" not in state:
            super()._update(parameter, grad, group, scratch)
            return
        pieces = chunks(parameter, grad, state["state1"], state["state2"], size=rounding.CHUNK)
        scales = zip(*(state[name].split(rounding.CHUNK // BLOCK) for name in ("absmax1", "absmax2")), strict=True)
        for (weight, gradient, *moments), scale in zip(pieces, scales, strict=True):
            if weight.dtype == torch.float32:
                _update_8bit(weight, gradient, moments, scale, group)
                continue
            g, _, _, w, bits, low = scratch.views(weight.shape)
            _update_8bit(w.copy_(weight), g.copy_(gradient), moments, scale, group)
            bits.random_(generator=scratch.generator)
            store(weight, w, torch.bitwise_and(bits, 0xFFFF, out=low))


def _update_8bit(
    weight: Tensor, grad: Tensor, moments: Sequence[Tensor], scales: Sequence[Tensor], group: dict[str, Any]
) -> None:
    """One update of float32 weights in place."""
    from bitsandbytes.functional import optimizer_update_8bit_blockwise

    beta1, beta2 = group["betas"]
    signed, unsigned = _maps(weight.device)
    optimizer_update_8bit_blockwise(
        "adam",
        grad,
        weight,
        *moments,
        beta1,
        beta2,
        0.0,
        0.0,
        group["eps"],
        group["step"],
        float(group["lr"]),
        signed,
        unsigned,
        *scales,
        weight_decay=group["weight_decay"],
    )


@functools.cache
def _maps(device: torch.device) -> tuple[Tensor, Tensor]:
    """What the 256 values of a byte stand for, with a sign and without."""
    from bitsandbytes.functional import create_dynamic_map

    return create_dynamic_map(signed=True).to(device), create_dynamic_map(signed=False).to(device)
