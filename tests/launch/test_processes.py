"""Processes that train together are started, stopped and ended together, and have one exit code."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tunesmith.errors import RunError
from tunesmith.launch.processes import Group, is_worker, run_together

WAITS = """
import signal
signal.signal(signal.SIGTERM, lambda *_: exit(75))
open({ready!r} + RANK, "w").close()
signal.pause()
"""


def script(text: str) -> list[str]:
    """A process that knows its RANK."""
    return [sys.executable, "-c", "import os; RANK = os.environ['RANK']\n" + textwrap.dedent(text)]


def test_each_process_is_told_its_place(tmp_path: Path) -> None:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    write = f"import json; json.dump({{k: os.environ[k] for k in {names}}}, open({str(tmp_path)!r} + '/' + RANK, 'w'))"
    assert run_together(script(write), Group.of(2, {}), print) == 0
    told = [json.loads((tmp_path / rank).read_text()) for rank in "01"]
    assert [one["LOCAL_RANK"] for one in told] == ["0", "1"]
    assert all(one["WORLD_SIZE"] == one["LOCAL_WORLD_SIZE"] == "2" for one in told)
    assert told[0]["MASTER_PORT"] == told[1]["MASTER_PORT"]
    assert told[0]["MASTER_ADDR"] == "127.0.0.1"


def test_a_machine_runs_its_share() -> None:
    names = {"PET_NNODES": "3", "PET_NODE_RANK": "2", "PET_MASTER_ADDR": "first", "PET_MASTER_PORT": "4000"}
    told = Group.of(4, names).environment(1, cores=8)
    assert (told["RANK"], told["LOCAL_RANK"], told["WORLD_SIZE"]) == ("9", "1", "12")
    assert (told["MASTER_ADDR"], told["MASTER_PORT"]) == ("first", "4000")


@pytest.mark.parametrize(
    ("num_local", "names", "message"),
    [
        (0, {}, "--procs 0: expected at least 1"),
        (1, {"PET_NNODES": "2", "PET_NODE_RANK": "2", "PET_MASTER_ADDR": "a"}, "PET_NODE_RANK=2: expected 0 to 1"),
        (1, {"PET_NNODES": "2", "PET_NODE_RANK": "0"}, "PET_MASTER_ADDR is not"),
        (1, {"PET_NNODES": "two"}, "PET_NNODES=two: expected a number"),
    ],
)
def test_numbers_that_make_no_group_are_refused(num_local: int, names: dict[str, str], message: str) -> None:
    with pytest.raises(RunError, match=message):
        Group.of(num_local, names)


@pytest.mark.parametrize(
    ("failing", "code", "message"),
    [
        (
            "import sys; print('no room', file=sys.stderr); exit(2)",
            2,
            r"process 1 of 2 failed \(exit code 2\).*no room",
        ),
        ("os.kill(os.getpid(), 9)", 1, "process 1 of 2 was ended by SIGKILL; the others were ended"),
    ],
)
def test_one_that_fails_ends_the_others_with_its_cause(failing: str, code: int, message: str) -> None:
    said: list[str] = []
    command = script(f"import signal\nif RANK == '1':\n    {failing}\nsignal.pause()")
    assert run_together(command, Group.of(2, {}), said.append, grace_seconds=0.2) == code
    assert re.search(message, " ".join(said))


def test_one_that_is_stopped_ends_the_run() -> None:
    said: list[str] = []
    command = script("import signal\nif RANK == '1':\n    os.kill(os.getpid(), signal.SIGSTOP)\nsignal.pause()")
    assert run_together(command, Group.of(2, {}), said.append, stopped_seconds=0.1) == 1
    assert said[0].startswith("process 1 of 2 is stopped (SIGSTOP, or a debugger) and the others wait for it")


def test_one_that_does_not_answer_is_named() -> None:
    said: list[str] = []
    command = script("import signal\nif RANK == '0':\n    exit(2)\nos.kill(os.getpid(), signal.SIGSTOP)")
    assert run_together(command, Group.of(2, {}), said.append, grace_seconds=0.5) == 2
    assert said == ["process 1 of 2 did not answer and was ended (it is stopped)"]


def test_a_stop_reaches_all(tmp_path: Path) -> None:
    ready = str(tmp_path / "ready")
    command = script(WAITS.format(ready=ready))
    parent = (
        "import sys; from tunesmith.launch.processes import Group, run_together; "
        f"sys.exit(run_together({command!r}, Group.of(2, {{}}), print))"
    )
    with subprocess.Popen([sys.executable, "-c", parent]) as process:
        while not all(Path(ready + rank).exists() for rank in "01"):
            assert process.poll() is None
        process.send_signal(signal.SIGHUP)  # a terminal that goes away ends nothing
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 75


def test_who_was_started_by_a_launcher_is_a_worker() -> None:
    assert is_worker({"RANK": "0", "WORLD_SIZE": "2"})
    assert not is_worker({"PATH": os.environ["PATH"]})
