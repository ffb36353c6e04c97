"""AdamW for weights held in bfloat16: 8 bytes a parameter with gradient and moments, where float32 takes 16.

An update is often smaller than half the last digit of a bfloat16 weight, and rounding to nearest would lose it every
time. Rounding up or down at random, in proportion to what is cut off, keeps it on average (Gupta et al. 2015, Deep
Learning with Limited Numerical Precision; Zamirai et al. 2020, Revisiting BFloat16 Training). The second moment moves
by a thousandth a step, so it is rounded so too; the first moves by a tenth, and the nearest number is near enough.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from tunesmith.fast.fused.update import Rates, update

CHUNK = 1 << 22
"""Numbers that are updated at a time, in float32: six buffers of 16 MiB. On a GPU fewer cost more in launches."""


class RoundingAdamW(torch.optim.Optimizer):
    """torch.optim.AdamW (same formula, same state) over bfloat16 parameters, rounded at random.

    The random bits follow from `seed` and the number of the step alone: a run that goes on rounds as the one that was
    never stopped, and processes that train together stay equal.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        seed: int = 0,
        fused: bool = False,
    ) -> None:
        """fused: one launch a parameter, by a Triton kernel."""
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "step": 0})
        if not all(parameter.is_contiguous() for group in self.param_groups for parameter in group["params"]):
            raise ValueError("RoundingAdamW: expected contiguous parameters")
        self.seed, self.fused = seed, fused

    def new_state(self, parameter: Tensor) -> dict[str, Tensor]:
        """A parameter's state before any step."""
        return {
            "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Copied in place: torch's own would turn what is held in another type into that of the weights."""
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        with torch.no_grad():
            for parameter, number in zip(parameters, numbers, strict=True):
                if number in state_dict["state"]:
                    held = self.state[parameter] = self.new_state(parameter)
                    for name, tensor in held.items():
                        tensor.copy_(state_dict["state"][number][name])
        for group, stored in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update({name: value for name, value in stored.items() if name != "params"})

    def scratch_numbers(self, parameter: Tensor) -> int:
        """How many numbers of a parameter are copied for its update."""
        return 0 if self._in_one_pass(parameter) else parameter.numel()

    def _in_one_pass(self, parameter: Tensor) -> bool:
        return self.fused and parameter.dtype == torch.bfloat16

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update. All memory it needs is taken before the first weight changes."""
        moving = [
            parameter for group in self.param_groups for parameter in group["params"] if parameter.grad is not None
        ]
        for parameter in moving:
            if parameter not in self.state:
                self.state[parameter] = self.new_state(parameter)
        largest = max(map(self.scratch_numbers, moving), default=0)
        scratch = {device: Scratch(device, min(CHUNK, largest)) for device in {p.device for p in moving}}
        for group in self.param_groups:
            group["step"] += 1
            for buffers in scratch.values():
                buffers.generator.manual_seed((self.seed * 1_000_003 + group["step"]) & 0xFFFFFFFF)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group, scratch[parameter.device])

    def make_scratch(self) -> Scratch:
        """Buffers for the update of any parameter of the first one's device."""
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        return Scratch(parameters[0].device, min(CHUNK, max(map(self.scratch_numbers, parameters))))

    def begin_update(self) -> None:
        """Count a step whose parameters are updated one by one."""
        for group in self.param_groups:
            group["step"] += 1

    @torch.no_grad()
    def update_one(self, parameter: Tensor, scratch: Scratch) -> None:
        """Update a parameter by its gradient, after `begin_update`.

        The random bits follow from the seed, the step and the parameter's number: in whatever order they come.
        """
        assert parameter.grad is not None
        _, group = self._numbered[parameter]
        scratch.generator.manual_seed(self._seed_of(parameter))
        if parameter not in self.state:
            self.state[parameter] = self.new_state(parameter)
        self._update(parameter, parameter.grad, group, scratch)

    def _seed_of(self, parameter: Tensor) -> int:
        """31 bits for a parameter's random numbers in the present step."""
        number, group = self._numbered[parameter]
        return ((self.seed * 1_000_003 + int(group["step"])) * 1_000_033 + number) % 0x7FFFFFFF

    @functools.cached_property
    def _numbered(self) -> dict[Tensor, tuple[int, dict[str, Any]]]:
        """Number and group of each parameter."""
        pairs = ((parameter, group) for group in self.param_groups for parameter in group["params"])
        return {parameter: (number, group) for number, (parameter, group) in enumerate(pairs)}

    def _update(self, parameter: Tensor, grad: Tensor, group: dict[str, Any], scratch: Scratch) -> None:
        state, step = self.state[parameter], group["step"]
        beta1, beta2 = group["betas"]
        rate = float(group["lr"])
        kept = 1.0 - rate * group["weight_decay"]
        size = rate / (1.0 - beta1**step)
        root = math.sqrt(1.0 - beta2**step)
        weights, grad = own_part(parameter), own_part(grad)
        moment, squares = own_part(state["exp_avg"]), own_part(state["exp_avg_sq"])
        if self._in_one_pass(parameter):
            rates = Rates(kept, size, root, beta1, beta2, group["eps"])
            update(weights, grad, moment, squares, rates, self._seed_of(parameter))
            return
        for weight, gradient, first, second in chunks(weights, grad, moment, squares, size=scratch.size):
            g, m, v, w, bits, low = scratch.views(weight.shape)
            g.copy_(gradient)
            first.copy_(m.copy_(first).lerp_(g, 1.0 - beta1))
            v.copy_(second).mul_(beta2).addcmul_(g, g, value=1.0 - beta2)
            torch.sqrt(v, out=g).div_(root).add_(group["eps"])
            w.copy_(weight).mul_(kept).addcdiv_(m, g, value=-size)
            bits.random_(generator=scratch.generator)
            store(weight, w, torch.bitwise_and(bits, 0xFFFF, out=low))
            store(second, v, bits.bitwise_right_shift_(15))


def own_part(tensor: Tensor) -> Tensor:
    """What this process has of a tensor that may be sharded: the same memory."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part


def round_at_random(values: Tensor, bits: Tensor) -> Tensor:
    """float32 values, in place, to one of the two bfloat16 numbers around each: up with the share that is cut off.

    values: float32. bits: int32 of the same shape, uniform over 0 to 65,535.
    """
    values.view(torch.int32).add_(bits).bitwise_and_(-0x10000)
    return values


def store(target: Tensor, values: Tensor, bits: Tensor) -> None:
    """Write float32 values, which change, to `target`: rounded at random where it is bfloat16."""
    target.copy_(round_at_random(values, bits) if target.dtype == torch.bfloat16 else values)


def write(weight: Tensor, update: Tensor, scratch: Scratch, *, kept: float, size: float) -> None:
    """weight = kept * weight + size * update, rounded at random where it is bfloat16. update: in the first buffer."""
    if weight.dtype == torch.float32:
        weight.mul_(kept).add_(update, alpha=size)
        return
    _, _, _, w, bits, low = scratch.views(weight.shape)
    w.copy_(weight).mul_(kept).add_(update, alpha=size)
    bits.random_(generator=scratch.generator)
    store(weight, w, torch.bitwise_and(bits, 0xFFFF, out=low))


class Scratch:
    """float32 and int32 buffers of one device, and its random numbers."""

    def __init__(self, device: torch.device, size: int) -> None:
        self.size = size
        self._floats = torch.empty(4, size, device=device)
        self._ints = torch.empty(2, size, dtype=torch.int32, device=device)
        self.generator = torch.Generator(device)

    def views(self, shape: torch.Size) -> tuple[Tensor, ...]:
        number = shape.numel()
        return tuple(buffer[:number].view(shape) for buffer in (*self._floats, *self._ints))


def chunks(*tensors: Tensor, size: int) -> Iterator[tuple[Tensor, ...]]:
    """Views of at most `size` numbers at the same places of tensors of one shape."""
    return zip(*(tensor.flatten().split(size) for tensor in tensors), strict=True)
