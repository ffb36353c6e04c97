"""Where a run stands: its own last word, held against whether its writer lives."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tunesmith.errors import RunError, Stopped
from tunesmith.recipe import Recipe
from tunesmith.run import standing as module
from tunesmith.run.artefacts import MetricsLine, Status
from tunesmith.run.detach import stop_run, wait_for
from tunesmith.run.directory import STOP, RunDir
from tunesmith.run.lock import RunLock, boot_id
from tunesmith.run.observer import Silent
from tunesmith.run.recorder import Recorder
from tunesmith.run.signals import StopRequest
from tunesmith.run.standing import standing
from tunesmith.show.runs import describe_standing


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    run_dir = RunDir.create(tmp_path / "run")
    run_dir.write_recipe(Recipe(model="m", data="a.csv"))
    return run_dir


def status(**values: Any) -> Status:
    plain: dict[str, Any] = {
        "state": "running",
        "doing": "training",
        "step": 3,
        "num_steps": 9,
        "loss": 2.5,
        "eval_loss": 3.0,
        "tokens_per_second": 100.0,
        "seconds_left": 60.0,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "boot": boot_id(),
        "updated": time.time(),
    }
    return Status(**{**plain, **values})


def gone() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    return child.pid


def test_a_run_that_was_never_begun(run_dir: RunDir) -> None:
    found = standing(run_dir)
    assert (found.state, found.why) == ("stopped", "it did not begin")
    assert found.resume == f"tunesmith train {run_dir.path}/recipe.yaml --out {run_dir.path} --resume"


def test_running_while_its_writer_lives_and_crashed_when_it_is_gone(run_dir: RunDir) -> None:
    run_dir.write(status())
    with RunLock(run_dir):
        found = standing(run_dir)
        assert (found.state, found.seconds_left, found.resume) == ("running", 60.0, None)
    found = standing(run_dir)
    assert (found.state, found.seconds_left) == ("crashed", None)
    assert f"process {os.getpid()} on {socket.gethostname()} is gone; it was training" == found.why
    assert found.resume is not None


def lock_of(run_dir: RunDir, **values: Any) -> None:
    with RunLock(run_dir):
        held = json.loads(run_dir.file("lock").read_text())
    run_dir.file("lock").write_text(json.dumps({**held, **values}))


def test_killed_without_a_word(run_dir: RunDir) -> None:
    pid = gone()
    run_dir.write(status(pid=pid))
    lock_of(run_dir, pid=pid, start="1")
    assert standing(run_dir).state == "crashed"


def test_a_machine_that_was_started_again(run_dir: RunDir) -> None:
    run_dir.write(status(boot="earlier"))
    lock_of(run_dir, boot="earlier")
    found = standing(run_dir)
    assert (found.state, found.why) == ("crashed", "the machine was started again while it was training")
    assert "Go on with: tunesmith train" in describe_standing("run", found)


def test_a_run_on_another_machine_is_believed_while_it_speaks(run_dir: RunDir) -> None:
    lock_of(run_dir, host="elsewhere")
    run_dir.write(status(host="elsewhere"))
    assert standing(run_dir).state == "running"
    run_dir.write(status(host="elsewhere", updated=time.time() - 2 * module.SILENT_SECONDS))
    assert standing(run_dir).state == "crashed"


@pytest.mark.parametrize(
    ("error", "state", "why"),
    [
        (None, "finished", ""),
        (Stopped("SIGTERM at step 3/9", "x"), "stopped", "SIGTERM at step 3/9"),
        (RunError("disk full\nmore"), "failed", "disk full"),
        (ZeroDivisionError("division by zero"), "failed", "division by zero"),
    ],
)
def test_the_last_word_stays(run_dir: RunDir, error: Exception | None, state: str, why: str) -> None:
    def work() -> None:
        with Recorder(run_dir, 9, Silent()) as recorder:
            recorder.started(0)
            recorder.stepped(MetricsLine(step=3, epoch=0.1, time=1.0, loss=2.0), 5.0)
            if error is not None:
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(type(error)):
            work()
    found = standing(run_dir)
    assert (found.state, found.why, found.step, found.loss, found.seconds_left) == (state, why, 3, 2.0, None)
    logged = run_dir.file("log.txt").read_text() if run_dir.has("log.txt") else ""
    assert ("Traceback" in logged) == isinstance(error, ZeroDivisionError), "a bug leaves its traceback in the log"


def test_a_damaged_word_is_no_word(run_dir: RunDir) -> None:
    run_dir.file("status.json").write_text('{"state": "runn')
    assert standing(run_dir).state == "stopped"


def test_a_stop_file_asks_once_and_does_not_outlive_its_run(run_dir: RunDir) -> None:
    run_dir.file(STOP).touch()
    with Recorder(run_dir, 9, Silent()) as recorder:
        assert not recorder.stop_was_asked(), "it was asked of an earlier process"
        run_dir.file(STOP).touch()
        assert recorder.stop_was_asked()
        assert not recorder.stop_was_asked()


def test_a_run_on_another_machine_is_asked_by_a_file(run_dir: RunDir) -> None:
    lock_of(run_dir, host="elsewhere")
    run_dir.write(status(host="elsewhere"))
    with pytest.raises(RunError, match=r"still stopping after 0\.3 s"):
        stop_run(run_dir, 0.3, lambda line: None)
    assert run_dir.has(STOP)
    assert standing(run_dir).state == "stopping"


def test_a_run_that_has_ended_is_left_alone(run_dir: RunDir) -> None:
    run_dir.write(status(state="finished", doing=""))
    assert stop_run(run_dir, 1, lambda line: pytest.fail(line)).state == "finished"
    assert not run_dir.has(STOP)


def test_a_run_waits_for_another_and_begins_however_that_one_ended(run_dir: RunDir, tmp_path: Path) -> None:
    other = RunDir.create(tmp_path / "other")
    other.write_recipe(Recipe(model="m", data="a.csv"))
    other.write(status())
    said: list[str] = []
    with RunLock(run_dir):
        with RunLock(other):
            waiting = threading.Thread(target=wait_for, args=(other, run_dir, StopRequest("x"), said.append))
            waiting.start()
            while not run_dir.has("status.json"):
                assert waiting.is_alive()
            seen = standing(run_dir)
            assert (seen.state, seen.why) == ("waiting", f"waiting for {other.path}")
        waiting.join(timeout=30)
        assert not waiting.is_alive()
    assert said[0].startswith(f"waiting for {other.path} to end (step 3 of 9)")
    assert said[1].startswith(f"{other.path}: crashed")


def test_a_run_that_waits_can_be_stopped(run_dir: RunDir, tmp_path: Path) -> None:
    other = RunDir.create(tmp_path / "other")
    other.write(status())
    stop = StopRequest("x")
    stop.ask("enough")
    with RunLock(run_dir), RunLock(other), pytest.raises(Stopped, match="enough"):
        wait_for(other, run_dir, stop, lambda line: None)
