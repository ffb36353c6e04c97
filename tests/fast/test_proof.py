"""Kernels are relied on where they compute what torch computes, on the model itself; else steps run without them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tunesmith.fast import proof
from tunesmith.fast.device import Device
from tunesmith.fast.fused import norm
from tunesmith.fast.proof import proven_device

FUSED = Device("cpu", fused=True)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt-neo"])
def test_kernels_that_are_right_are_relied_on(name: str, build: Callable[..., Any]) -> None:
    model = build(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    random = torch.get_rng_state()
    assert proven_device(model, torch.bfloat16, FUSED) == (FUSED, "")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert "forward" not in model.__dict__


def _off(*arguments: Any) -> Any:
    d_x, *rest = norm._backward_reference(*arguments)
    return (d_x * 1.3, *rest)


def _missing(*arguments: Any) -> Any:
    raise RuntimeError("Failed to find C compiler.\nSet CC.")


def _not_finite(*arguments: Any) -> Any:
    d_x, *rest = norm._backward_reference(*arguments)
    return (d_x * float("nan"), *rest)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (_off, r"are off here by 0\.\d+ of a gradient"),
        (_not_finite, "are off here by inf"),
        (_missing, r"cannot be used here.*RuntimeError: Failed to find C compiler\.\)"),
    ],
)
def test_kernels_that_are_wrong_or_fail_are_left_out(
    broken: Any, message: str, build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(norm, "_backward", broken)
    device, why = proven_device(build("llama"), torch.bfloat16, FUSED)
    assert device == Device("cpu")
    assert re.search(message, why)


def test_a_device_without_kernels_is_taken_as_it_is(build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "_tried", None)
    assert proven_device(build("llama"), torch.float32, Device("cpu")) == (Device("cpu"), "")
