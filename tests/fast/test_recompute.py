"""The MLP's inner tensor is made again in backward, and not kept until then."""

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from tunesmith import fast
from tunesmith.fast import layers
from tunesmith.fast.recompute import without_keeping


def memory_of(tensor):
    return StorageWeakRef(tensor.untyped_storage())


def test_values_and_gradients_are_the_same_and_the_tensor_is_let_go():
    torch.manual_seed(0)
    x, layer = torch.randn(3, 5, 8, requires_grad=True), nn.Linear(8, 4)
    expected = torch.autograd.grad(layer(x.sin()).square().sum(), [x, layer.weight])
    inner, kept, calls = x.sin(), x.detach(), []

    def compute():
        calls.append(1)
        return kept.sin()

    with without_keeping(inner, compute):
        y = layer(inner)
    memory = memory_of(inner)
    del inner
    assert memory.expired()
    found = torch.autograd.grad(y.square().sum(), [x, layer.weight])
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert calls == [1]


def test_other_tensors_are_kept_as_they_are():
    x, other = torch.randn(4, 8, requires_grad=True), torch.randn(4, 8)
    with without_keeping(torch.randn(4, 8), pytest.fail):
        y = x * other
    y.sum().backward()
    assert torch.equal(x.grad, other)


@pytest.fixture
def inner(monkeypatch):
    """The memory of the inner tensors of every MLP that is computed."""
    seen = []
    original = layers.without_keeping

    def spy(tensor, compute):
        seen.append(memory_of(tensor))
        return original(tensor, compute)

    monkeypatch.setattr(layers, "without_keeping", spy)
    return seen


@pytest.mark.parametrize("name", ["llama", "gpt-neo", "gpt2", "gptj"])
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_no_layer_keeps_it(name, bf16, build, documents_of, inner):
    model = build(name)
    fast.apply(model)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        loss = model(flat=fast.flatten(documents_of()), denominator=1.0).loss
    assert len(inner) == 2
    assert all(memory.expired() for memory in inner)
    loss.backward()


def test_a_checkpointed_layer_leaves_it_to_the_checkpoint(build, documents_of, inner):
    model = build("llama").train()
    fast.apply(model)
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    model(flat=fast.flatten(documents_of()), denominator=1.0).loss.backward()
    assert not inner
