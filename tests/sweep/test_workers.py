"""Trials at a time: which GPU each worker has, and one sweep made by two processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("optuna", reason="optuna is not installed (extra sweep)")

from tunesmith.errors import SweepError
from tunesmith.recipe import Recipe
from tunesmith.sweep.workers import VISIBLE, devices_of, helping


def test_each_worker_has_a_gpu_of_its_own_among_those_that_are_seen() -> None:
    assert devices_of(3, None, 4) == ["0", "1", "2"]
    assert devices_of(2, "2,5,7", 3) == ["2", "5"]
    assert devices_of(2, "GPU-a, GPU-b", 2) == ["GPU-a", "GPU-b"]
    assert devices_of(1, "3", 1) == [None]
    assert devices_of(2, None, 0) == [None, None], "they share the processor"
    with pytest.raises(SweepError, match=r"--workers 3, but 2 GPUs are seen"):
        devices_of(3, "0,1", 2)


STAND_IN = """
import os, sys
from pathlib import Path
assert sys.argv[-3:] == ["--workers", "1", "--joins"], sys.argv
Path(os.environ["STAND_IN"]).joinpath(os.environ[sys.argv[1]]).write_text("here")
"""


def test_the_others_begin_when_they_may_with_their_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the command writes down the GPU that it sees."""
    package = tmp_path / "tunesmith"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("STAND_IN", str(tmp_path))
    with helping(["0", "1", "GPU-b"], [VISIBLE]) as start:
        assert not list(tmp_path.glob("[1G]*"))
        start()
    assert sorted(path.name for path in tmp_path.glob("[01G]*")) == ["1", "GPU-b"]


def test_a_leader_that_fails_asks_the_others_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "tunesmith"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text("import signal\nsignal.pause()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def lead() -> None:
        with helping([None, None], []) as start:
            start()
            raise SweepError("as it happens")

    with pytest.raises(SweepError, match="as it happens"):
        lead()


@pytest.mark.slow
def test_two_processes_make_one_sweep(tiny_llama: Path, shows_csv: Path, tmp_path: Path) -> None:
    recipe = Recipe(
        model={"name": str(tiny_llama)},
        data={"path": str(shows_csv), "text": "description", "max_rows": 40, "eval_fraction": 0.25},
        train={"tokens_per_step": 200, "max_steps": 8, "rehearse": False},
    )
    path, folder = tmp_path / "r.yaml", tmp_path / "sweep"
    path.write_text(recipe.to_yaml())
    command = [sys.executable, "-m", "tunesmith", "sweep", str(path), "--out", str(folder), "--workers", "2"]
    over = ["--over", "train.learning_rate=1e-4..1e-1:log", "--trials", "6", "--json"]
    done = subprocess.run([*command, *over], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["trials"]) in (6, 7), "both may begin the last at once"
    assert {row["state"] for row in found["trials"]} <= {"complete", "ended early"}
    kept = [run.name for run in (folder / "trials").iterdir() if (run / "model").is_dir()]
    assert kept == [f"{found['best']:04d}"]
    assert done.stderr.count("trial ") >= 6, "each told its own"
