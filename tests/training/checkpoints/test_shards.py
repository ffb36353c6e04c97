"""Shares of tensors come back bit for bit, whole or split in another way; in one process of a group."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors import safe_open
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from tunesmith.errors import RunError
from tunesmith.step import ReadyAdamW
from tunesmith.training.checkpoints import shards
from tunesmith.training.checkpoints.shards import Part, joined, parted, read_shards, shard_kinds, write_shards
from tunesmith.training.checkpoints.state import load_optimizer, load_trainable, load_tree, save_tree
from tunesmith.training.processes.sharding import whole


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[DeviceMesh]:
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def sharded(tensor: torch.Tensor, mesh: DeviceMesh) -> Any:
    return distribute_tensor(tensor, mesh, [Shard(0)])


class Model(torch.nn.Module):
    def __init__(self, mesh: DeviceMesh | None, rows: int = 4) -> None:
        super().__init__()
        torch.manual_seed(3)
        weight = torch.randn(rows, 3)
        self.weight = torch.nn.Parameter(weight if mesh is None else sharded(weight, mesh))
        self.frozen = torch.nn.Parameter(torch.zeros(1), requires_grad=False)


def test_shares_are_files_of_bounded_size_without_a_pickle(
    mesh: DeviceMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "FILE_BYTES", 100)
    values = {"a": torch.randn(6, 3), "b": torch.randn(5), "c": torch.randn(7, 2).to(torch.bfloat16)}
    write_shards({name: sharded(value, mesh) for name, value in values.items()}, tmp_path / "model")
    files = sorted((tmp_path / "model").iterdir())
    assert [path.suffix for path in files] == [".safetensors"] * 2
    with safe_open(files[0], framework="pt") as file:
        assert set(file.keys()) == {"a", "b"}
    assert shard_kinds(tmp_path / "model")["c"] == (torch.Size([7, 2]), torch.bfloat16)
    back = {name: torch.empty_like(value) for name, value in values.items()}
    read_shards(back, tmp_path / "model")
    assert all(torch.equal(back[name], value) for name, value in values.items())


def test_a_tree_is_taken_apart_and_joined(mesh: DeviceMesh, tmp_path: Path) -> None:
    value = torch.randn(4, 2)
    tree = {"state": {0: {"moment": sharded(value, mesh), "step": torch.tensor(3.0)}}, "groups": [(1, "x")]}
    rest, parts = parted(tree)
    assert rest["state"][0]["moment"] == Part("state/0/moment")
    assert list(parts) == ["state/0/moment"]
    write_shards(parts, tmp_path / "optimizer")
    save_tree(rest, tmp_path / "optimizer.safetensors")
    for back in (joined(rest, tmp_path / "optimizer"), load_tree(tmp_path / "optimizer.safetensors")):
        assert torch.equal(back["state"][0]["moment"], value)
        assert back["groups"] == [(1, "x")]


@pytest.mark.parametrize("into_whole", [False, True])
def test_weights_and_optimizer_go_on_sharded_or_whole(mesh: DeviceMesh, tmp_path: Path, into_whole: bool) -> None:
    model = Model(mesh)
    optimizer = ReadyAdamW([{"params": [model.weight]}], 0.1)
    (model.weight * 2).sum().backward()
    optimizer.step()
    state, parts = parted(optimizer.state_dict())
    write_shards({"weight": model.weight}, tmp_path / "model")
    write_shards(parts, tmp_path / "optimizer")
    save_tree(state, tmp_path / "optimizer.safetensors")

    other = Model(None if into_whole else mesh)
    again = ReadyAdamW([{"params": [other.weight]}], 0.5)
    load_trainable(other, tmp_path / "model.safetensors")
    load_optimizer(again, tmp_path / "optimizer.safetensors")
    assert again.param_groups[0]["lr"] == 0.1
    pairs = [(model.weight, other.weight)]
    pairs += [(optimizer.state[model.weight][name], held) for name, held in again.state[other.weight].items()]
    assert len(pairs) == 4
    assert all(torch.equal(whole(first), whole(second)) for first, second in pairs)


def test_an_optimizer_that_holds_nothing_yet_gets_whole_moments(mesh: DeviceMesh, tmp_path: Path) -> None:
    model = Model(mesh)
    optimizer = ReadyAdamW([{"params": [model.weight]}], 0.1)
    (model.weight * 2).sum().backward()
    optimizer.step()
    state, parts = parted(optimizer.state_dict())
    write_shards(parts, tmp_path / "optimizer")
    save_tree(state, tmp_path / "optimizer.safetensors")
    other = Model(None)
    again = torch.optim.AdamW([other.weight], 0.5)
    load_optimizer(again, tmp_path / "optimizer.safetensors")
    moment = again.state[other.weight]["exp_avg"]
    assert torch.equal(moment, optimizer.state[model.weight]["exp_avg"].full_tensor())


def test_shares_of_another_model_are_refused(mesh: DeviceMesh, tmp_path: Path) -> None:
    write_shards({"weight": Model(mesh, rows=5).weight}, tmp_path / "model")
    with pytest.raises(RunError, match=r"model: weight: expected \(4, 3\) torch.float32, found \(5, 3\)"):
        load_trainable(Model(None), tmp_path / "model.safetensors")
    write_shards({"other": Model(mesh).weight}, tmp_path / "second")
    with pytest.raises(RunError, match=r"second: is of another model: it lacks \['weight'\] and has \['other'\]"):
        load_trainable(Model(None), tmp_path / "second.safetensors")


def test_what_cannot_be_written_is_the_error_of_the_disk(mesh: DeviceMesh, tmp_path: Path) -> None:
    (tmp_path / "model").write_text("in the way")
    with pytest.raises(OSError):
        write_shards({"weight": Model(mesh).weight}, tmp_path / "model")
