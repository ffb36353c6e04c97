"""Ray Train with two local workers: one that is killed is replaced, and the run ends as an undisturbed one."""

from __future__ import annotations

import importlib.util
import random
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tunesmith import Recipe
from tunesmith.api import Run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: tunesmith[ray]"),
]


def command(recipe: Path, out: Path) -> list[str]:
    """What `launch --engine ray` runs, with workers that share two cores."""
    text = (
        "from pathlib import Path; from tunesmith.launch.job import Job; from tunesmith.launch.ray import run; "
        f"run(Job(recipe=Path({str(recipe)!r}), out=Path({str(out)!r}), num_processes=2), cpus_per_process=0.5)"
    )
    return [sys.executable, "-c", text]


def workers(pid: int) -> list[psutil.Process]:
    """The training processes below a driver."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def test_a_worker_that_is_killed_is_replaced(tiny_llama: Path, shows_csv: Path, tmp_path: Path) -> None:
    recipe = Recipe(
        model={"name": str(tiny_llama)},
        data={"path": shows_csv.name, "text": "description", "max_rows": 60, "eval_fraction": 0.2},
        train={"tokens_per_step": 100, "epochs": 30, "max_steps": 80, "learning_rate": 5e-3},
        save={"every": 5},
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    subprocess.run(
        command(path, tmp_path / "undisturbed"), check=True, capture_output=True, timeout=600, cwd=shows_csv.parent
    )
    with subprocess.Popen(
        command(path, tmp_path / "lost"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=shows_csv.parent
    ) as driver:
        while not any((tmp_path / "lost" / "checkpoints").glob("step-[1-9]?")):
            assert driver.poll() is None
        random.Random(7).choice(workers(driver.pid)).send_signal(signal.SIGKILL)
        said = driver.communicate(timeout=600)[0].decode(errors="replace")
    assert driver.returncode == 0, said
    assert "resuming" in said
    lost, undisturbed = Run(tmp_path / "lost"), Run(tmp_path / "undisturbed")
    assert lost.result["steps"] == 80
    assert lost.result["eval_loss"] == undisturbed.result["eval_loss"]
    first, second = (load_file(run.path / "model" / "model.safetensors") for run in (lost, undisturbed))
    assert all(torch.equal(first[name], second[name]) for name in first)
