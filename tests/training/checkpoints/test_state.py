"""Trees and optimizer, parameter and random states come back bit for bit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tunesmith.errors import RunError
from tunesmith.step import ReadyAdamW
from tunesmith.training.checkpoints.state import (
    load_optimizer,
    load_trainable,
    load_tree,
    rng_state,
    save_parameters,
    save_tree,
    set_rng_state,
)
from tunesmith.training.processes.sharding import trained


def test_a_tree_keeps_values_types_and_bits(tmp_path: Path) -> None:
    tree: dict[Any, Any] = {
        "a": [1, 2.5, None, True, "text", (1, (2,))],
        3: {"x": torch.tensor([0.1, float("nan"), -0.0]), "e": torch.empty(0)},
        "np": np.arange(3, dtype=np.uint32),
        "tiny": 5e-324,
        "inf": float("inf"),
        "bf16": torch.randn(3, 2).to(torch.bfloat16).t(),
        "scalar": torch.tensor(7),
    }
    save_tree(tree, tmp_path / "t.safetensors")
    back: Any = load_tree(tmp_path / "t.safetensors")
    assert list(back) == list(tree)
    assert back["a"] == tree["a"]
    assert isinstance(back["a"][5], tuple)
    assert back[3]["x"].numpy().tobytes() == tree[3]["x"].numpy().tobytes()
    assert back[3]["e"].shape == (0,)
    assert back["np"].dtype == np.uint32
    assert back["np"].tolist() == [0, 1, 2]
    assert (back["tiny"], back["inf"]) == (5e-324, float("inf"))
    assert torch.equal(back["bf16"], tree["bf16"])
    assert back["scalar"].shape == ()


def test_a_value_that_is_not_plain_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="x/1: a function"):
        save_tree({"x": [1, lambda: 1]}, tmp_path / "t.safetensors")


def test_a_slice_is_saved_without_the_rest_of_its_storage(tmp_path: Path) -> None:
    save_tree(torch.zeros(1_000_000)[:2], tmp_path / "t.safetensors")
    assert (tmp_path / "t.safetensors").stat().st_size < 1000


def test_a_file_that_is_no_tree_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.safetensors").write_bytes(b"\x80\x04\x95 a pickle")
    with pytest.raises(RunError, match="cannot be read back"):
        load_tree(tmp_path / "t.safetensors")


def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, scheduler, num_steps: int) -> None:
    for _ in range(num_steps):
        loss = (torch.nn.functional.dropout(model(torch.randn(4, 8)), 0.3) * random.random() * np.random.rand()).sum()
        loss.backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()


def build(optimizer_class):
    torch.manual_seed(1)
    model = torch.nn.Linear(8, 8)
    optimizer = optimizer_class([{"params": [model.weight], "weight_decay": 0.1}, {"params": [model.bias]}], lr=0.1)
    return model, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))


@pytest.mark.parametrize("optimizer_class", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad])
def test_a_restored_state_goes_on_bit_for_bit(tmp_path: Path, optimizer_class) -> None:
    random.seed(3)
    np.random.seed(3)
    model, optimizer, scheduler = build(optimizer_class)
    train(model, optimizer, scheduler, 3)
    np.random.normal()  # leaves a cached gaussian behind
    save_parameters(trained(model), tmp_path / "model.safetensors")
    save_tree(optimizer.state_dict(), tmp_path / "optimizer.safetensors")
    save_tree(scheduler.state_dict(), tmp_path / "scheduler.safetensors")
    save_tree(rng_state(), tmp_path / "rng.safetensors")
    train(model, optimizer, scheduler, 3)
    expected = (model.weight.detach().clone(), random.random(), np.random.normal(), torch.rand(1))

    model, optimizer, scheduler = build(optimizer_class)
    load_trainable(model, tmp_path / "model.safetensors")
    load_optimizer(optimizer, tmp_path / "optimizer.safetensors")
    scheduler.load_state_dict(load_tree(tmp_path / "scheduler.safetensors"))
    set_rng_state(load_tree(tmp_path / "rng.safetensors"))
    train(model, optimizer, scheduler, 3)
    assert (model.weight.detach().view(torch.int32) == expected[0].view(torch.int32)).all()
    assert (random.random(), np.random.normal(), torch.rand(1)) == expected[1:]


def test_only_parameters_that_train_are_saved(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    model[0].requires_grad_(False)
    save_parameters(trained(model), tmp_path / "model.safetensors")
    other = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    with pytest.raises(RunError, match=r"lacks \['0.bias', '0.weight'\]"):
        load_trainable(other, tmp_path / "model.safetensors")


def test_another_shape_or_type_is_refused(tmp_path: Path) -> None:
    save_parameters(trained(torch.nn.Linear(4, 4)), tmp_path / "model.safetensors")
    with pytest.raises(RunError, match=r"expected \(5, 4\) torch.float32, found \(4, 4\) torch.float32"):
        load_trainable(torch.nn.Linear(4, 5, bias=True), tmp_path / "model.safetensors")
    with pytest.raises(RunError, match=r"expected .* torch\.bfloat16"):
        load_trainable(torch.nn.Linear(4, 4, dtype=torch.bfloat16), tmp_path / "model.safetensors")


def test_the_optimizer_of_another_model_is_refused(tmp_path: Path) -> None:
    save_tree(torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), lr=1).state_dict(), tmp_path / "o.safetensors")
    with pytest.raises(RunError, match=r"expected parameter groups of \[1\], found \[2\]"):
        load_optimizer(torch.optim.SGD([torch.zeros(1)], lr=1), tmp_path / "o.safetensors")


def test_a_state_that_is_there_is_filled_in_place(tmp_path: Path) -> None:
    """A run that goes on takes no more memory than one that was never stopped."""
    first, second = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)
    saved = ReadyAdamW([{"params": list(first.parameters()), "weight_decay": 0.1}], 0.5)
    first(torch.ones(2, 8)).sum().backward()
    saved.step()
    save_tree(saved.state_dict(), tmp_path / "o.safetensors")
    resumed = ReadyAdamW([{"params": list(second.parameters()), "weight_decay": 0.0}], 0.1)
    held = [tensor for state in resumed.state.values() for tensor in state.values()]
    load_optimizer(resumed, tmp_path / "o.safetensors")
    now = [tensor for state in resumed.state.values() for tensor in state.values()]
    wanted = [tensor for state in saved.state.values() for tensor in state.values()]
    assert all(tensor is before for tensor, before in zip(now, held, strict=True))
    assert all(torch.equal(tensor, other) for tensor, other in zip(now, wanted, strict=True))
    assert (resumed.param_groups[0]["lr"], resumed.param_groups[0]["weight_decay"]) == (0.5, 0.1)


def test_a_state_of_another_type_is_not_filled_in_place(tmp_path: Path) -> None:
    saved = ReadyAdamW([{"params": [torch.nn.Parameter(torch.ones(4))]}], 0.5)
    save_tree(saved.state_dict(), tmp_path / "o.safetensors")
    parameter = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    resumed = ReadyAdamW([{"params": [parameter]}], 0.5)
    load_optimizer(resumed, tmp_path / "o.safetensors")
    assert resumed.state[parameter]["exp_avg"].dtype == torch.bfloat16


def test_a_run_that_goes_on_holds_no_more_than_one_that_was_never_stopped(tmp_path: Path) -> None:
    """Weights and moments are filled where they stand: a second copy of them was a third of the peak."""

    def made() -> tuple[torch.nn.Module, ReadyAdamW]:
        model = torch.nn.Linear(5, 3)
        return model, ReadyAdamW([{"params": list(model.parameters())}], 1e-2)

    def addresses(model: torch.nn.Module, optimizer: ReadyAdamW) -> list[int]:
        state = [tensor for held in optimizer.state.values() for tensor in held.values()]
        return [tensor.data_ptr() for tensor in (*model.parameters(), *state)]

    model, optimizer = made()
    model(torch.randn(2, 5)).sum().backward()
    optimizer.step()
    save_parameters(trained(model), tmp_path / "model.safetensors")
    save_tree(optimizer.state_dict(), tmp_path / "optimizer.safetensors")
    other, resumed = made()
    before = addresses(other, resumed)
    load_trainable(other, tmp_path / "model.safetensors")
    load_optimizer(resumed, tmp_path / "optimizer.safetensors")
    assert addresses(other, resumed) == before
    assert all(torch.equal(one, two) for one, two in zip(other.parameters(), model.parameters(), strict=True))
    moments = [held["exp_avg"] for held in resumed.state.values()]
    assert all(torch.count_nonzero(moment) > 0 for moment in moments)
