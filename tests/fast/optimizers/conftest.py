"""Small networks trained by optimizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn


@pytest.fixture
def trained() -> Callable[..., float]:
    """trained(model, *optimizers, number=20, begin=0): from step `begin` on, the mean loss of the last five steps.

    model: 24 values to 24. Its weights take part in float32, whatever they are kept in.
    """

    def call(model: nn.Module, *optimizers: Any, number: int = 20, begin: int = 0) -> float:
        target, losses = torch.randn(24, 24, generator=torch.Generator().manual_seed(1)) / 5, list[float]()
        for step in range(begin, begin + number):
            x = torch.randn(32, 24, generator=torch.Generator().manual_seed(step))
            weights = {name: weight.float() for name, weight in model.named_parameters()}
            loss = nn.functional.mse_loss(torch.func.functional_call(model, weights, (x,)), torch.tanh(x @ target))
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            losses.append(loss.item())
        return sum(losses[-5:]) / 5

    return call
