"""The weights of the lowest held-out loss become the model, however a run comes to its end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import tunesmith
from tunesmith import Recipe, Stopped
from tunesmith.api import Run
from tunesmith.run.artefacts import MetricsLine, Plan, Result, Status
from tunesmith.training.checkpoints.best import BestWeights
from tunesmith.training.checkpoints.checkpoint import newest_valid_checkpoint
from tunesmith.training.checkpoints.shards import read_shards, shard_kinds, shards_beside
from tunesmith.training.checkpoints.state import save_parameters

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def overfitting(tiny_llama: Path, shows_csv: Path) -> Recipe:
    """Few rows, seen so often that the held-out loss rises again."""
    return Recipe(
        model={"name": str(tiny_llama)},
        data={"path": str(shows_csv), "text": "description", "max_rows": 24, "eval_fraction": 0.3},
        train={
            "epochs": 40,
            "tokens_per_step": 600,
            "learning_rate": 2e-2,
            "schedule": "constant",
            "warmup_fraction": 0,
            "max_length": 128,
        },
        eval={"every": 4, "samples": 0},
        save={"every": 6, "keep": 1},
    )


@pytest.fixture(scope="module")
def ended(overfitting: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tunesmith.train(overfitting, out=tmp_path_factory.mktemp("best") / "run", console=QUIET)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(next((path / "model").glob("*.safetensors")))


def whole_weights(path: Path) -> dict[str, torch.Tensor]:
    """Of a file, or of the shards in its place."""
    if path.is_file():
        return load_file(path)
    folder = shards_beside(path)
    tensors = {name: torch.empty(size, dtype=dtype) for name, (size, dtype) in shard_kinds(folder).items()}
    read_shards(tensors, folder)
    return tensors


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def lasting(result: Result) -> dict[str, Any]:
    """What of a result does not depend on the day."""
    values = result.model_dump()
    return {
        name: value for name, value in values.items() if "second" not in name and name not in ("ended", "peak_bytes")
    }


def test_a_run_ends_early_and_its_model_is_the_best_one(ended: Run, overfitting: Recipe, tmp_path: Path) -> None:
    result, plan = ended.dir.read(Result), ended.dir.read(Plan)
    losses = {line["step"]: line["eval_loss"] for line in ended.dir.metrics() if "eval_loss" in line and line["step"]}
    best = min(losses, key=losses.__getitem__)
    assert result.ended_early
    assert result.stopped is None
    assert best < result.steps < plan.num_steps
    assert plan.early_stopping is not None
    assert (result.steps - best) // 4 == plan.early_stopping
    assert (result.best_step, result.best_eval_loss) == (best, losses[best])
    assert result.eval_loss == pytest.approx(losses[best], abs=1e-6)
    assert result.last_eval_loss == losses[result.steps] > losses[best]
    assert result.num_evaluations == len(losses)
    shorter = overfitting.with_values(**{"train.max_steps": best, "train.early_stopping": False})
    only = tunesmith.train(shorter, out=tmp_path / "only", console=QUIET)
    assert equal(weights(only.path), weights(ended.path)), "as if it had been trained so far and no further"
    assert not list((ended.path / "checkpoints").glob("best-*"))
    status = ended.dir.read(Status)
    assert (status.state, status.step, status.num_steps) == ("finished", result.steps, result.steps)


def test_a_run_that_ended_early_is_not_trained_again_and_more_patience_goes_on(
    ended: Run, overfitting: Recipe, tmp_path: Path
) -> None:
    before = ended.dir.read(Result)
    again = tunesmith.train(overfitting, out=ended.path, console=QUIET)
    assert again.dir.read(Result) == before
    copy = Path(shutil.copytree(ended.path, tmp_path / "copy"))
    patient = overfitting.with_values(**{"train.early_stopping": 8, "train.max_steps": before.steps + 8})
    longer = tunesmith.train(patient, out=copy, console=QUIET).dir.read(Result)
    assert longer.steps > before.steps
    assert longer.best_step == before.best_step, "known from the checkpoint"
    assert equal(weights(copy), weights(ended.path))


class Killed(BaseException):
    """Ends a run without a last word."""


@pytest.mark.parametrize("after", [0, 1], ids=["at the best", "a step later"])
def test_a_run_that_was_stopped_after_its_best_goes_on_bitwise(
    ended: Run, overfitting: Recipe, tmp_path: Path, after: int
) -> None:
    best = ended.dir.read(Result).best_step
    assert best is not None
    seen: list[Any] = []
    with pytest.raises(Stopped):
        tunesmith.train(
            overfitting, out=tmp_path, console=QUIET, on_step=seen.append, stop=lambda: seen[-1].step >= best + after
        )
    for path in (tmp_path / "checkpoints").glob("best-*"):
        path.unlink()  # the checkpoint holds them too
    run = tunesmith.train(overfitting, out=tmp_path, console=QUIET)
    assert lasting(run.dir.read(Result)) == lasting(ended.dir.read(Result))
    assert equal(weights(run.path), weights(ended.path))


def test_a_run_that_was_killed_after_its_best_goes_on_bitwise(ended: Run, overfitting: Recipe, tmp_path: Path) -> None:
    best = ended.dir.read(Result).best_step
    assert best is not None

    def kill(line: MetricsLine) -> None:
        if line.step == best + 5:
            raise Killed

    with pytest.raises(Killed):
        tunesmith.train(overfitting, out=tmp_path, console=QUIET, on_step=kill)
    assert [path.name for path in (tmp_path / "checkpoints").glob("best-*")] == [f"best-{best}.safetensors"]
    run = tunesmith.train(overfitting, out=tmp_path, console=QUIET)
    assert lasting(run.dir.read(Result)) == lasting(ended.dir.read(Result))
    assert equal(weights(run.path), weights(ended.path))


def test_without_it_all_steps_are_made_and_the_last_weights_are_the_model(
    overfitting: Recipe, ended: Run, tmp_path: Path
) -> None:
    steps = ended.dir.read(Result).steps
    recipe = overfitting.with_values(**{"train.early_stopping": False, "train.max_steps": steps})
    result = tunesmith.train(recipe, out=tmp_path, console=QUIET).dir.read(Result)
    assert (result.steps, result.ended_early) == (steps, False)
    assert result.eval_loss == result.last_eval_loss
    assert not equal(weights(tmp_path), weights(ended.path))


@pytest.mark.parametrize(
    "more",
    [
        pytest.param([], id="full", marks=pytest.mark.slow),
        pytest.param(["--set", "train.sharding=full", "--set", "train.method=lora"], id="lora-sharded"),
    ],
)
def test_two_processes_keep_what_one_keeps(overfitting: Recipe, tmp_path: Path, more: list[str]) -> None:
    recipe = overfitting.with_values(**{"train.early_stopping": 1, "train.learning_rate": 0.3})
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "tunesmith",
        "train",
        str(tmp_path / "recipe.yaml"),
        "--out",
        str(tmp_path / "two"),
    ]
    done = subprocess.run(
        [*command, "--procs", "2", *more],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    two = Run(tmp_path / "two")
    result = two.dir.read(Result)
    assert result.ended_early
    assert result.best_step is not None
    assert result.best_step < result.steps
    checkpoint, _ = newest_valid_checkpoint(two.path / "checkpoints")
    assert checkpoint is not None
    kept = whole_weights(checkpoint.path / "best.safetensors")
    saved = weights(two.path)
    by_end = {name.removeprefix("base_model.model.").replace(".default", ""): value for name, value in kept.items()}
    for name, value in saved.items():
        assert torch.equal(value, by_end[name.removeprefix("base_model.model.")]), name


def test_a_disk_that_knows_no_links_gets_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*names: object) -> None:
        raise OSError(95, "Operation not supported")

    best = BestWeights(tmp_path / "checkpoints")
    assert not best.put_into(tmp_path, "x", 3)
    best.write(3, lambda path: save_parameters({"w": torch.ones(2)}, path))
    best.write(5, lambda path: save_parameters({"w": torch.zeros(2)}, path))
    assert [path.name for path in best.root.iterdir()] == ["best-5.safetensors"]
    monkeypatch.setattr(os, "link", refuse)
    assert best.put_into(tmp_path, "x", 5)
    assert torch.equal(load_file(tmp_path / "x")["w"], torch.zeros(2))
    best.clear()
    assert not list(best.root.iterdir())
