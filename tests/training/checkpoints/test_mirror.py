"""Sealed checkpoints are copied to another place, and a run without one goes on from there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import tunesmith
from tunesmith import Recipe
from tunesmith.api import Run
from tunesmith.errors import RunError
from tunesmith.training.checkpoints.checkpoint import MANIFEST, newest_valid_checkpoint, save_checkpoint
from tunesmith.training.checkpoints.mirror import Mirror

ADDRESS = "memory://bucket/runs/one"
QUIET = Console(quiet=True)


def save(root: Path, step: int) -> Path:
    def write(folder: Path) -> None:
        (folder / "model").mkdir()
        (folder / "model" / "shard.safetensors").write_bytes(b"weights of %d" % step)
        (folder / "rng.safetensors").write_bytes(b"numbers of %d" % step)

    return save_checkpoint(root, step, write, info={"seed": step}, keep=2)


def pushed(root: Path, *steps: int) -> list[str]:
    """Save and copy steps, one after another; what was told."""
    said: list[str] = []
    for step in steps:
        mirror = Mirror(ADDRESS, said.append)
        mirror.push(save(root, step))
        mirror.close()
    return said


def copies(bucket: Any) -> list[str]:
    return sorted({path.split("/")[4] for path in bucket.store})


def test_the_copies_are_those_that_the_run_keeps(bucket: Any, tmp_path: Path) -> None:
    assert pushed(tmp_path / "checkpoints", 1, 2, 3) == []
    assert copies(bucket) == ["step-2", "step-3"]
    said: list[str] = []
    Mirror(ADDRESS, print).pull(tmp_path / "new" / "checkpoints", said.append)
    assert said == [f"step-3 was taken from {ADDRESS}"]
    found, problems = newest_valid_checkpoint(tmp_path / "new" / "checkpoints")
    assert found is not None
    assert (found.step, problems) == (3, [])
    assert found.file("model/shard.safetensors").read_bytes() == b"weights of 3"
    assert [path.name for path in found.path.parent.iterdir()] == ["step-3"]


def test_a_run_that_has_a_checkpoint_takes_none(bucket: Any, tmp_path: Path) -> None:
    pushed(tmp_path / "one", 5)
    save(tmp_path / "two", 3)
    Mirror(ADDRESS, print).pull(tmp_path / "two", print)
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["step-3"]


@pytest.mark.parametrize("damage", ["manifest", "missing", "changed"])
def test_a_copy_that_is_not_whole_is_passed_over(bucket: Any, tmp_path: Path, damage: str) -> None:
    pushed(tmp_path / "one", 1, 2)
    place = "/bucket/runs/one/step-2"
    if damage == "changed":
        bucket.pipe(f"{place}/rng.safetensors", b"numbers of 7")
    else:
        bucket.rm(f"{place}/{MANIFEST if damage == 'manifest' else 'model/shard.safetensors'}")
    said: list[str] = []
    Mirror(ADDRESS, print).pull(tmp_path / "two", said.append)
    passed = [] if damage == "manifest" else [f"passed over step-2 of {ADDRESS}: it is not whole"]
    assert said == [*passed, f"step-1 was taken from {ADDRESS}"]
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["step-1"]


def test_a_run_that_starts_over_leaves_nothing_there(bucket: Any, tmp_path: Path) -> None:
    pushed(tmp_path / "one", 1, 2)
    Mirror(ADDRESS, print).clear()
    Mirror(ADDRESS, print).pull(tmp_path / "two", print)
    assert copies(bucket) == []


def test_a_place_that_cannot_be_written_ends_no_run(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise PermissionError("403")

    monkeypatch.setattr(type(bucket), "open", refuse)
    (told,) = pushed(tmp_path, 1)
    assert told.startswith(f"save.mirror: step-1 could not be copied to {ADDRESS} (403); the run goes on")


def test_half_a_copy_is_none(bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed(tmp_path / "one", 1)
    opened = type(bucket).open

    def fail(self: Any, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode == "wb" and path.endswith("rng.safetensors"):
            raise ConnectionError("the machine is gone")
        return opened(self, path, mode, **options)

    monkeypatch.setattr(type(bucket), "open", fail)
    pushed(tmp_path / "one", 2)
    assert copies(bucket) == ["step-1", "step-2"]
    said: list[str] = []
    Mirror(ADDRESS, print).pull(tmp_path / "two", said.append)
    assert said == [f"step-1 was taken from {ADDRESS}"]


def test_what_cannot_be_a_mirror_is_said(bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match=r"save\.mirror: https://host/a: expected an address that can be written: s3://"):
        Mirror("https://host/a", print).check()

    def refuse(*arguments: Any, **options: Any) -> None:
        raise ImportError("no such package")

    monkeypatch.setattr(type(bucket), "glob", refuse)
    with pytest.raises(RunError, match=r"memory://bucket/runs/one: cannot be read \(no such package\)"):
        Mirror(ADDRESS, print).pull(tmp_path / "checkpoints", print)
    monkeypatch.setattr("fsspec.core.url_to_fs", refuse)
    with pytest.raises(RunError, match=r"s3:// needs a package .* pip install 'tunesmith\[s3\]'"):
        Mirror("s3://bucket/run", print).check()


def test_a_run_whose_disk_is_gone_goes_on_bitwise(tiny_llama: Path, shows_csv: Path, tmp_path: Path) -> None:
    recipe = Recipe(
        model={"name": str(tiny_llama)},
        data={"path": str(shows_csv), "text": "description", "max_rows": 40, "eval_fraction": 0.2},
        train={"tokens_per_step": 400, "max_steps": 4, "learning_rate": 5e-3, "rehearse": False}
        | {"schedule": "constant", "warmup_fraction": 0.0},
        save={"every": 2},
    )
    undisturbed = tunesmith.train(recipe, out=tmp_path / "undisturbed", console=QUIET)
    mirrored = recipe.with_values(**{"save.mirror": f"file://{tmp_path}/mirror"})
    tunesmith.train(mirrored.with_values(**{"train.max_steps": 2}), out=tmp_path / "run", console=QUIET)
    shutil.rmtree(tmp_path / "run")
    run = tunesmith.train(mirrored, out=tmp_path / "run", console=QUIET)
    assert [line["step"] for line in run.dir.metrics() if "loss" in line] == [3, 4]
    assert sorted(path.name for path in (tmp_path / "mirror").iterdir()) == ["step-2", "step-4"]
    assert same(undisturbed, run)
    again = tunesmith.train(mirrored, out=tmp_path / "run", fresh=True, console=QUIET)
    assert next(line["step"] for line in again.dir.metrics() if "loss" in line) == 1


def same(*runs: Run) -> bool:
    first, second = (load_file(run.path / "model" / "model.safetensors") for run in runs)
    return all(torch.equal(first[name], second[name]) for name in first)
