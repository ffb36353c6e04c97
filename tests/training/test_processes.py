"""Several processes train as one: the same steps, the same loss, one writer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import tunesmith
from tunesmith import Recipe
from tunesmith.api import Run


def losses(run: Run, key: str) -> list[float]:
    return [line[key] for line in run.dir.metrics() if key in line]


TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]


@pytest.mark.parametrize(
    ("method", "launcher", "more"),
    [
        ("full", [], ["--procs", "2"]),
        ("lora", TORCHRUN, []),
        ("full", [], ["--procs", "2", "--set", "train.sharding=full"]),
        ("lora", [], ["--procs", "2", "--set", "train.sharding=full"]),
    ],
    ids=["full", "lora-torchrun", "full-sharded", "lora-sharded"],
)
def test_two_processes_equal_one(
    tiny_llama: Path, shows_csv: Path, tmp_path: Path, method: str, launcher: list[str], more: list[str]
) -> None:
    recipe = Recipe(
        model={"name": str(tiny_llama)},
        data={"path": str(shows_csv), "text": "description", "max_rows": 60, "eval_fraction": 0.2},
        train={"method": method, "tokens_per_step": 600, "max_steps": 4, "learning_rate": 5e-3},
        save={"every": 2},
    )
    one = tunesmith.train(recipe, out=tmp_path / "one", console=Console(quiet=True))
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    command = [sys.executable, *launcher, "-m", "tunesmith", "train", str(tmp_path / "recipe.yaml")]
    command += ["--out", str(tmp_path / "two"), *more]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    two = Run(tmp_path / "two")
    assert losses(two, "loss") == pytest.approx(losses(one, "loss"), abs=2e-5)
    assert losses(two, "eval_loss") == pytest.approx(losses(one, "eval_loss"), abs=2e-5)
    assert two.result["train_tokens"] == one.result["train_tokens"]
    assert (two.path / "report.html").is_file()
    assert not (two.path / "lock").exists()


def test_a_mistake_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("train: {learning_rte: 1}\n", encoding="utf-8")
    command = [sys.executable, "-m", "tunesmith", "train", str(tmp_path / "recipe.yaml"), "--procs", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("learning_rte") == 1


@pytest.mark.slow
def test_a_lost_process_ends_the_run_and_it_goes_on_bitwise(tiny_llama: Path, shows_csv: Path, tmp_path: Path) -> None:
    recipe = Recipe(
        model={"name": str(tiny_llama)},
        data={"path": str(shows_csv), "text": "description", "max_rows": 60, "eval_fraction": 0.2},
        train={"tokens_per_step": 100, "epochs": 30, "max_steps": 150, "learning_rate": 5e-3},
        save={"every": 5},
    )
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")

    def command(name: str) -> list[str]:
        start = [sys.executable, "-m", "tunesmith", "train", str(tmp_path / "recipe.yaml")]
        return [*start, "--out", str(tmp_path / name), "--procs", "2"]

    subprocess.run(command("undisturbed"), check=True, capture_output=True)
    with subprocess.Popen(command("lost"), stderr=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "lost" / "checkpoints" / "step-10").is_dir():
            assert process.poll() is None
        second = psutil.Process(process.pid).children()[1]
        second.kill()
        _, said = process.communicate(timeout=120)
    assert process.returncode not in (0, 75)
    assert "process 1 of 2 was ended by SIGKILL" in said
    assert "This is a bug" not in said
    subprocess.run(command("lost"), check=True, capture_output=True)
    weights = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("undisturbed", "lost")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_sharded_run_goes_on_with_any_number_of_processes(
    tiny_llama: Path, shows_csv: Path, tmp_path: Path, method: str
) -> None:
    recipe = Recipe(
        model={"name": str(tiny_llama)},
        data={"path": str(shows_csv), "text": "description", "max_rows": 60, "eval_fraction": 0.2},
        train={"method": method, "tokens_per_step": 400, "epochs": 4, "max_steps": 6, "learning_rate": 5e-3}
        | {"schedule": "constant", "warmup_fraction": 0.0},
        save={"every": 2},
    )
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    one = tunesmith.train(recipe, out=tmp_path / "one", console=Console(quiet=True))
    for steps, more in ((2, ["--procs", "2", "--set", "train.sharding=full"]), (4, []), (6, ["--procs", "3"])):
        command = [sys.executable, "-m", "tunesmith", "train", str(tmp_path / "recipe.yaml")]
        command += ["--out", str(tmp_path / "many"), "--force", "--set", f"train.max_steps={steps}", *more]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    many = Run(tmp_path / "many")
    assert losses(many, "loss") == pytest.approx(losses(one, "loss"), abs=2e-3)
