"""A run without its shell: it begins, is seen, stopped and resumed from others, and ends as if nothing had been."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tunesmith.run.directory import RunDir
from tunesmith.run.standing import standing

pytestmark = pytest.mark.skipif(not hasattr(os, "setsid"), reason="sessions are of POSIX")


def tunesmith(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tunesmith", *arguments], capture_output=True, text=True, check=False, cwd=cwd
    )


@pytest.fixture
def recipe(tiny_llama: Path, shows_csv: Path, tmp_path: Path) -> Path:
    values = {
        "model": str(tiny_llama),
        "data": {"path": str(shows_csv), "text": "description", "max_rows": 120},
        "train": {"max_steps": 400, "epochs": 400, "tokens_per_step": 300, "max_length": 128, "learning_rate": 1e-3},
        "eval": {"every": 400},
        "save": {"every": 400},
    }
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def weights(run: Path) -> list[str]:
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted((run / "model").glob("*.safetensors"))]


def test_detached_stopped_from_another_shell_and_resumed(recipe: Path, tmp_path: Path) -> None:
    begun = tunesmith("train", "r.yaml", "--detach", "--out", "run", cwd=tmp_path)
    assert begun.returncode == 0, begun.stderr
    name, word, pid = begun.stdout.split()
    assert (name, word) == ("run", "pid")
    seen = json.loads(tunesmith("status", "run", "--json", cwd=tmp_path).stdout)
    assert (seen["state"], seen["pid"]) == ("running", int(pid))
    assert {"step", "num_steps", "loss", "eval_loss", "tokens_per_second", "seconds_left", "host", "updated"} <= set(
        seen
    )
    run_dir = RunDir(tmp_path / "run")
    while standing(run_dir).step < 2:
        assert standing(run_dir).is_alive
        time.sleep(0.05)
    stopped = tunesmith("stop", "run", cwd=tmp_path)
    assert stopped.returncode == 0, stopped.stderr
    found = standing(run_dir)
    assert found.state == "stopped"
    assert 2 <= found.step < 400
    assert not run_dir.has("lock")
    assert tunesmith("train", "r.yaml", "--out", "run", "--resume", cwd=tmp_path).returncode == 0
    assert standing(run_dir).state == "finished"
    assert "finished" in tunesmith("attach", "run", cwd=tmp_path).stdout
    assert tunesmith("train", "r.yaml", "--out", "undisturbed", cwd=tmp_path).returncode == 0
    assert weights(tmp_path / "run") == weights(tmp_path / "undisturbed")


@pytest.mark.parametrize(
    ("wrong", "told"), [("train.epochs=x", "train.epochs"), ("data.path=no.csv", "no.csv: no such file")]
)
def test_what_is_refused_is_said_at_once_and_leaves_nothing(
    recipe: Path, tmp_path: Path, wrong: str, told: str
) -> None:
    done = tunesmith("train", "r.yaml", "--detach", "--out", "run", "--set", wrong, cwd=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "run").exists()
