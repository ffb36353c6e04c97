"""Several processes train as one: the same steps, the same loss, one writer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import tunesmith
from tunesmith import Recipe
from tunesmith.api import Run


def losses(run: Run, key: str) -> list[float]:
    return [line[key] for line in run.dir.metrics() if key in line]


@pytest.mark.parametrize("method", ["full", "lora"])
def test_two_processes_equal_one(tiny_llama: Path, shows_csv: Path, tmp_path: Path, method: str) -> None:
    recipe = Recipe(
        model={"name": str(tiny_llama)},
        data={"path": str(shows_csv), "text": "description", "max_rows": 60, "eval_fraction": 0.2},
        train={"method": method, "tokens_per_step": 600, "max_steps": 4, "learning_rate": 5e-3},
        save={"every": 2},
    )
    one = tunesmith.train(recipe, out=tmp_path / "one", console=Console(quiet=True))
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--standalone",
        "-m",
        "tunesmith",
    ]
    command += ["train", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "two")]
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
