"""Fused adapters: peft's values and gradients, and peft itself for every adapter or call that is not the plain one."""

import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from tunesmith import fast


class Model(nn.Module):
    def __init__(self, bias):
        super().__init__()
        self.plain = nn.Linear(24, 40, bias=bias)

    def forward(self, x):
        return self.plain(x)


def adapted(**settings):
    torch.manual_seed(0)
    base = Model(settings.pop("with_bias", True))
    settings = {"r": 4, "lora_alpha": 12, "target_modules": ["plain"], "init_lora_weights": False} | settings
    return get_peft_model(base, LoraConfig(**settings)).train()


def values_and_gradients(model, x, bf16=False):
    x = x.clone().requires_grad_()
    parameters = [p for p in model.parameters() if p.requires_grad]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        y = model(x)
    upstream = torch.linspace(-1, 1, y.numel()).view(y.shape).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, [x, *parameters], upstream)]


@pytest.mark.parametrize("shape", [(1, 70, 24), (9, 24)])
@pytest.mark.parametrize("settings", [{}, {"with_bias": False}, {"use_rslora": True}], ids=str)
def test_values_and_gradients_are_those_of_peft(settings, shape):
    model, x = adapted(**settings), torch.randn(shape)
    exact = values_and_gradients(model, x)
    rounded = values_and_gradients(model, x, bf16=True)
    assert fast.fuse_adapters(model).replaced == ["base_model.model.plain"]
    assert max(distances(values_and_gradients(model, x), exact)) < 1e-6
    found = values_and_gradients(model, x, bf16=True)
    assert [t.dtype for t in found] == [t.dtype for t in rounded]
    for mine, of_peft in zip(distances(found, exact), distances(rounded, exact), strict=True):
        assert mine < 1.2 * of_peft + 1e-3


def distances(found, expected):
    return [((a.float() - b).norm() / b.norm()).item() for a, b in zip(found, expected, strict=True)]


def test_an_input_without_gradient_gets_none():
    model = adapted()
    fast.fuse_adapters(model)
    model(torch.randn(5, 24)).sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())


def two_adapters():
    model = adapted()
    model.add_adapter("second", LoraConfig(target_modules=["plain"]))
    return model


def trained_base():
    model = adapted()
    model.base_model.model.plain.base_layer.weight.requires_grad_()
    return model


@pytest.mark.parametrize(
    "build",
    [
        lambda: adapted(lora_dropout=0.1),
        lambda: adapted(use_dora=True),
        lambda: adapted(lora_bias=True),
        lambda: adapted(bias="lora_only"),
        two_adapters,
        trained_base,
    ],
    ids=["dropout", "dora", "bias of the adapter", "bias of the layer", "two adapters", "trained base"],
)
def test_other_adapters_stay_those_of_peft(build):
    assert fast.fuse_adapters(build()).replaced == []


def test_calls_without_gradients_or_without_the_adapter_are_those_of_peft(monkeypatch):
    model, x = adapted(), torch.randn(9, 24)
    layer = model.base_model.model.plain
    with torch.no_grad():
        with_adapter = model(x)
    base = layer.base_layer(x)
    fast.fuse_adapters(model)
    monkeypatch.setattr(fast.adapters._AdaptedLinear, "apply", None)  # calling it would fail
    with torch.no_grad():
        assert torch.equal(model(x), with_adapter)
    with model.disable_adapter():
        assert torch.equal(model(x), base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.merge_adapter()
    torch.testing.assert_close(model(x), with_adapter)


def test_restore_gives_peft_back():
    model = adapted()
    applied = fast.fuse_adapters(model)
    applied.restore()
    assert not any("forward" in module.__dict__ for module in model.modules())
