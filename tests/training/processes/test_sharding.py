"""A sharded model computes what a whole one does, and its parts make whole tensors again; in one process of a group."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import transformers
from torch.distributed.tensor import DTensor

from tunesmith import fast
from tunesmith.errors import TrainingError
from tunesmith.fast.optimizers.rounding import RoundingAdamW
from tunesmith.step import ReadyAdamW, clip_gradients
from tunesmith.training.processes.sharding import fill, settle, shard, trained, whole

CPU = torch.device("cpu")


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def build() -> transformers.LlamaForCausalLM:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    model = transformers.LlamaForCausalLM(config).train()
    fast.apply(model)
    return model


def gathered(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: whole(parameter).detach() for name, parameter in trained(model).items()}


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> tuple[float, float]:
    flat = fast.flatten([(list(range(1, 20)), None), (list(range(30, 41)), None)])
    loss = model(flat=flat, denominator=28.0).loss
    loss.backward()
    norm = whole(clip_gradients(model.parameters(), 1.0))
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach()), float(norm)


@pytest.mark.usefixtures("group")
def test_a_sharded_step_is_a_step() -> None:
    model = build()
    other = copy.deepcopy(model)
    shard(other, CPU, 1)
    assert all(isinstance(parameter, DTensor) for parameter in other.parameters())
    optimizers = [ReadyAdamW([{"params": list(one.parameters())}], 1e-2) for one in (model, other)]
    for _ in range(3):
        assert step(other, optimizers[1]) == pytest.approx(step(model, optimizers[0]), rel=1e-5)
    with torch.no_grad():
        other(flat=fast.flatten([([1, 2, 3], None)]), denominator=1.0)
    settle(other)
    assert all(isinstance(parameter, DTensor) for parameter in other.parameters())
    for name, tensor in gathered(other).items():
        assert not isinstance(tensor, DTensor)
        torch.testing.assert_close(tensor, dict(model.named_parameters())[name], rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("group")
def test_whole_tensors_go_back_into_their_parts() -> None:
    model = build()
    shard(model, CPU, 1)
    name, parameter = next(iter(trained(model).items()))
    value = torch.randn(parameter.shape)
    fill(parameter, value)
    assert torch.equal(gathered(model)[name], value)


@pytest.mark.usefixtures("group")
def test_sharded_bfloat16_weights_are_rounded_as_whole_ones() -> None:
    model = build().to(torch.bfloat16)
    other = copy.deepcopy(model)
    shard(other, CPU, 1)
    optimizers = [RoundingAdamW(list(one.parameters()), 1e-2, seed=3) for one in (model, other)]
    for _ in range(3):
        step(model, optimizers[0])
        step(other, optimizers[1])
    for name, tensor in gathered(other).items():
        assert torch.equal(tensor, dict(model.named_parameters())[name])


@pytest.mark.usefixtures("group")
def test_frozen_weights_may_be_of_another_type() -> None:
    model = build().to(torch.bfloat16)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = False
        if "norm" in name:
            parameter.data = parameter.data.float()
            parameter.requires_grad = True
    shard(model, CPU, 1)
    with torch.autocast("cpu", torch.bfloat16):
        flat = fast.flatten([(list(range(1, 20)), None)])
        model(flat=flat, denominator=18.0).loss.backward()
    assert all(parameter.grad is not None for parameter in trained(model).values())


def test_weights_of_two_types_are_not_sharded() -> None:
    model = build()
    model.model.norm.to(torch.bfloat16)
    with pytest.raises(TrainingError, match="bfloat16, float32, and only those of one type"):
        shard(model, CPU, 2)
