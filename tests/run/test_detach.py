"""A run without its shell: it begins, is seen, stopped and resumed from others, and ends as if nothing had been."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tunesmith.run.directory import RunDir
from tunesmith.run.lock import process_start
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
        "train": {"max_steps": 250, "epochs": 250, "tokens_per_step": 300, "max_length": 128, "learning_rate": 1e-3},
        "eval": {"every": 250},
        "save": {"every": 25},
    }
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def weights(run: Path) -> list[str]:
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted((run / "model").glob("*.safetensors"))]


def start_from_a_shell_that_dies(command: str, cwd: Path) -> int:
    """The process id that a detached run prints; its shell and all that the shell started are killed then."""
    call = f"{shlex.quote(sys.executable)} -m {command}; sleep 600"
    with subprocess.Popen(["sh", "-c", call], stdout=subprocess.PIPE, text=True, cwd=cwd, start_new_session=True) as sh:
        assert sh.stdout is not None
        said = sh.stdout.readline()
        for number in (signal.SIGHUP, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(sh.pid, number)
    path, word, pid = said.split()
    assert (Path(path).name, word) == ("run", "pid")
    return int(pid)


def until(seen: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_detached_killed_stopped_from_another_shell_and_resumed(recipe: Path, tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "run")
    killed = start_from_a_shell_that_dies("tunesmith train r.yaml --detach --out run", tmp_path)
    until(lambda: standing(run_dir).step >= 30)
    os.kill(killed, signal.SIGKILL)
    until(lambda: process_start(killed) is None)
    found = standing(run_dir)
    assert found.state == "crashed", "at the first look after its end"
    assert f"process {killed} on {socket.gethostname()} is gone" in found.why
    assert found.resume is not None
    pid = start_from_a_shell_that_dies(f"{found.resume} --detach", tmp_path)
    shown = json.loads(tunesmith("watch", "run", "--json", cwd=tmp_path).stdout)
    assert (shown["state"], shown["pid"]) == ("running", pid)
    seen = json.loads(tunesmith("status", "run", "--json", cwd=tmp_path).stdout)
    assert (seen["state"], seen["pid"]) == ("running", pid)
    assert {"step", "num_steps", "loss", "eval_loss", "tokens_per_second", "seconds_left", "host", "updated"} <= set(
        seen
    )
    until(lambda: standing(run_dir).step >= 27)
    assert standing(run_dir).is_alive
    stopped = tunesmith("stop", "run", cwd=tmp_path)
    assert stopped.returncode == 0, stopped.stderr
    found = standing(run_dir)
    assert found.state == "stopped"
    assert 27 <= found.step < 250
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
