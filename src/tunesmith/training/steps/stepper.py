"""The arithmetic of one optimizer step, operation by operation: what the loop runs, and graphs.py records."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.fast.batches.layout import FlatBatch
from tunesmith.fast.optimizers.in_backward import InBackward
from tunesmith.step import ReadyAdamW, clip_gradients
from tunesmith.training.processes.sharding import whole


@dataclass(frozen=True)
class Stepper:
    """What a step is made of. model: as all processes train it."""

    model: Any
    arithmetic: Callable[[], AbstractContextManager[Any]]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    trained: tuple[nn.Parameter, ...]
    max_grad_norm: float
    """Infinite: gradients are not clipped."""
    in_backward: InBackward | None = None
    """Where weights move while backward runs: `run_lean` then stands for a whole step."""

    def run_lean(self, flat: FlatBatch, denominator: float, again: Callable[[], object]) -> tuple[Tensor, Tensor]:
        """One step of one pass, weights moved. Returns its loss, and the norm of its gradients before clipping."""
        assert self.in_backward is not None
        return self.in_backward.run(lambda: self.run_pass(flat, denominator), self.max_grad_norm, again)

    def run_pass(self, flat: FlatBatch, denominator: float | Tensor, *, is_first: bool = True) -> Tensor:
        """Forward and backward of one micro-batch; its graph is gone when this returns, and leaves no gaps.

        is_first: of its step, so that the weights may have changed since the last one.
        """
        with self.arithmetic():
            loss: Tensor = self.model(flat=flat, denominator=denominator, weights_changed=is_first).loss
        self.scaler.scale(loss).backward()
        return loss.detach()

    def clip(self) -> Tensor:
        """Clip the gradients; returns their norm before."""
        self.scaler.unscale_(self.optimizer)
        return whole(clip_gradients(self.trained, self.max_grad_norm))

    def move(self) -> None:
        """Move the weights by the gradients, which are gone afterwards."""
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        self.optimizer.zero_grad()

    @property
    def update_can_be_recorded(self) -> bool:
        """Whether clipping and optimizer are the same work at the same addresses in every step."""
        return isinstance(self.optimizer, ReadyAdamW) and not self.scaler.is_enabled()

    def load_rates(self) -> None:
        """Before a recorded update is replayed."""
        assert isinstance(self.optimizer, ReadyAdamW)
        self.optimizer.load_rates()

    def launch_update(self) -> Tensor:
        """Clipping and optimizer without a look at the host; the gradients stay. Returns their norm before."""
        assert isinstance(self.optimizer, ReadyAdamW)
        norm = clip_gradients(self.trained, self.max_grad_norm)
        self.optimizer.launch()
        return norm
