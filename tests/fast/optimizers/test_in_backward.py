"""Weights that move while backward runs."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from tunesmith.fast.optimizers.in_backward import InBackward
from tunesmith.fast.optimizers.rounding import RoundingAdamW


def new_model() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)).to(torch.bfloat16)


INPUT = torch.randn(8, 16, generator=torch.Generator().manual_seed(5)).to(torch.bfloat16)


def pass_of(model: nn.Module) -> Callable[[], torch.Tensor]:
    def one_pass() -> torch.Tensor:
        loss = model(INPUT).float().square().sum()
        loss.backward()
        return loss.detach()

    return one_pass


def norm_of(model: nn.Module, one_pass: Callable[[], torch.Tensor]) -> float:
    one_pass()
    norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), math.inf))
    model.zero_grad()
    return norm


def test_weights_move_by_clipped_gradients_and_none_is_left() -> None:
    """As the optimizer moves them by the same gradients, clipped: only the random bits are drawn in another order."""
    lean, plain = new_model(), new_model()
    moved = RoundingAdamW(plain.parameters(), 1e-2)
    pass_of(plain)()
    expected = torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
    moved.step()
    again: list[int] = []
    loss, norm = InBackward([RoundingAdamW(lean.parameters(), 1e-2)]).run(pass_of(lean), 1.0, lambda: again.append(1))
    assert again == [1]
    assert float(norm) == pytest.approx(float(expected), rel=1e-2)
    assert float(loss) == pytest.approx(float(pass_of(new_model())()))
    for one, other in zip(lean.parameters(), plain.parameters(), strict=True):
        assert one.grad is None
        assert (one - other).abs().max() <= 2 * 2.0**-8 * other.abs().max()


def test_without_clipping_one_pass_is_enough() -> None:
    model, passes = new_model(), list[int]()
    run = pass_of(model)

    def counted() -> torch.Tensor:
        passes.append(1)
        return run()

    _, norm = InBackward([RoundingAdamW(model.parameters(), 1e-2)]).run(counted, math.inf, lambda: passes.append(2))
    assert passes == [1]
    same = new_model()
    assert float(norm) == pytest.approx(norm_of(same, pass_of(same)), rel=1e-2)


def test_the_same_step_gives_the_same_bits_in_any_order() -> None:
    weights = []
    for _ in range(2):
        model = new_model()
        torch.rand(7)  # the random bits are the optimizer's own
        InBackward([RoundingAdamW(model.parameters(), 1e-2, seed=9)]).run(pass_of(model), 1.0, lambda: None)
        weights.append([parameter.detach().clone() for parameter in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))


def test_hooks_are_idle_outside_of_a_step() -> None:
    model = new_model()
    before = copy.deepcopy(model.state_dict())
    InBackward([RoundingAdamW(model.parameters(), 1e-2)])
    pass_of(model)()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_steps_are_counted_once() -> None:
    model = new_model()
    optimizer = RoundingAdamW(model.parameters(), 1e-2)
    hooks = InBackward([optimizer])
    for _ in range(3):
        hooks.run(pass_of(model), 1.0, lambda: None)
    assert [group["step"] for group in optimizer.param_groups] == [3]
