"""Threads spin on a quiet machine and sleep on a busy one; what the user set is left alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith.machine import threads
from tunesmith.machine.threads import POLICY, busy_load, decide, is_busy


def never() -> bool:
    raise AssertionError("the load does not matter")


def test_a_quiet_machine_is_left_as_it_is() -> None:
    environment: dict[str, str] = {}
    waiting = decide(environment, is_loaded=False, is_busy=lambda: False)
    assert environment == {}
    assert not waiting.is_busy
    assert "spin" in waiting.how


def test_on_a_busy_machine_threads_sleep() -> None:
    environment: dict[str, str] = {}
    waiting = decide(environment, is_loaded=False, is_busy=lambda: True)
    assert environment == {POLICY: "PASSIVE"}
    assert waiting.is_busy
    assert not waiting.was_too_late


def test_after_torch_it_is_too_late_and_said() -> None:
    environment: dict[str, str] = {}
    waiting = decide(environment, is_loaded=True, is_busy=lambda: True)
    assert environment == {}, "it would be read by nobody"
    assert waiting.was_too_late
    assert "before torch is imported" in waiting.how
    assert not decide({}, is_loaded=True, is_busy=lambda: False).is_busy


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS"])
def test_the_users_own_setting_stands(name: str) -> None:
    environment = {name: "1"}
    waiting = decide(environment, is_loaded=False, is_busy=never)
    assert environment == {name: "1"}
    assert f"{name}=1" in waiting.how


@pytest.mark.parametrize(
    ("load", "running", "busy"),
    [(0.1, 4, False), (1.2, 3, True), (1.2, 1, False), (2.5, 3, True)],
    ids=["quiet", "a neighbour", "it has just ended", "full"],
)
def test_busy_is_what_was_and_still_is(
    load: float, running: int, busy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loadavg").write_text(f"{load} 1.0 1.0 {running}/200 4242\n")
    monkeypatch.setattr(threads, "LOADAVG", tmp_path / "loadavg")
    monkeypatch.setattr(threads.os, "getloadavg", lambda: (load, 1.0, 1.0), raising=False)
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 2)
    assert is_busy() is busy


def test_without_loadavg_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(threads.os, "getloadavg", raising=False)
    assert not is_busy()


def test_more_cores_bear_more() -> None:
    assert busy_load(2) == 0.5
    assert busy_load(16) > 2
    assert busy_load(1) == 0.5


def test_the_command_line_chooses_before_torch_loads() -> None:
    """In a process of its own: the policy stands in the environment when torch reads it."""
    code = (
        "import os, sys\n"
        "os.environ.pop('OMP_NUM_THREADS', None)\n"
        "from tunesmith.machine import threads\n"
        "threads.is_busy = lambda: True\n"
        "from tunesmith.cli import main\n"
        "sys.argv = ['tunesmith', '--version']\n"
        "try:\n    main()\nexcept SystemExit:\n    print(os.environ.get('OMP_WAIT_POLICY'), 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "PASSIVE False"
