"""Weights that move while backward runs: each gradient is used as soon as it is whole, and gone.

A step then holds the gradient of one parameter instead of all (Lv et al. 2023, Full Parameter Fine-tuning for Large
Language Models with Limited Resources). Clipping needs the norm of all before the first moves, so that a clipped step
runs its pass twice: once for the norm, once to move. Only where a step is one pass, and it cannot be tried again once a
weight has moved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from tunesmith.fast.optimizers.rounding import RoundingAdamW, Scratch


class InBackward:
    """Hooks on the parameters of optimizers (one, but for a trace), which are idle outside of `run`."""

    def __init__(self, optimizers: Sequence[RoundingAdamW]) -> None:
        self._optimizers = list(optimizers)
        self._use: Callable[[RoundingAdamW, Tensor], None] | None = None
        self._norms: list[Tensor] = []
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.register_post_accumulate_grad_hook(partial(self._take, optimizer))

    def run(
        self, one_pass: Callable[[], Tensor], max_norm: float, again: Callable[[], object]
    ) -> tuple[Tensor, Tensor]:
        """Loss and norm (before clipping) of a step whose forward and backward is `one_pass`; the weights have moved.

        max_norm: of the clipped gradients; infinite where they are not clipped. again() is called between the two
        passes of a clipped step, to draw the same random numbers.
        """
        norm = factor = None
        if math.isfinite(max_norm):
            with self._using(self._measure):
                one_pass()
            again()
            norm = self._take_norm()
            factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)  # as torch.nn.utils.clip_grad_norm_
        scratch = self._optimizers[0].make_scratch()
        for optimizer in self._optimizers:
            optimizer.begin_update()
        with self._using(partial(self._move, factor, scratch)):
            loss = one_pass()
        return loss, self._take_norm() if norm is None else norm

    @contextmanager
    def _using(self, use: Callable[[RoundingAdamW, Tensor], None]) -> Iterator[None]:
        self._use = use
        try:
            yield
        finally:
            self._use = None

    def _take(self, optimizer: RoundingAdamW, parameter: Tensor) -> None:
        if self._use is not None:
            self._use(optimizer, parameter)
            parameter.grad = None

    def _measure(self, optimizer: RoundingAdamW, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self._norms.append(torch.linalg.vector_norm(parameter.grad, dtype=torch.float32))

    def _move(self, factor: Tensor | None, scratch: Scratch, optimizer: RoundingAdamW, parameter: Tensor) -> None:
        if factor is None:
            self._measure(optimizer, parameter)
        else:
            assert parameter.grad is not None
            parameter.grad.mul_(factor)
        optimizer.update_one(parameter, scratch)

    def _take_norm(self) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(torch.stack(self._norms))
        self._norms.clear()
        return norm
