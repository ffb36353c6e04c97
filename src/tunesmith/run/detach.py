"""Runs that go on without a terminal: started in a session of their own, stopped from any other shell."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tunesmith.errors import RunError
from tunesmith.run.artefacts import Status
from tunesmith.run.directory import STOP, RunDir
from tunesmith.run.standing import Standing, standing

POLL_SECONDS = 0.2
Say = Callable[[str], None]


def start_detached(path: Path, arguments: Sequence[str], say: Say) -> int:
    """Start `tunesmith ARGUMENTS` for the run at `path` in a session of its own; returns its process id.

    Returns when the run has begun: recipe, data and plan are accepted. What it says until then is said here. Raises
    SystemExit with its exit code when it ends before that.
    """
    before = RunDir(path).find(Status)
    with tempfile.TemporaryFile("w+b") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "tunesmith", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        said = 0
        while True:
            code = child.poll()
            status = RunDir(path).find(Status)
            begun = status is not None and status.pid == child.pid and status != before
            said = _pass_on(output.fileno(), said, say)
            if code is not None and not begun:
                raise SystemExit(code)
            if begun:
                return child.pid
            time.sleep(POLL_SECONDS)


def _pass_on(descriptor: int, begin: int, say: Say) -> int:
    """Say the whole lines that were written from `begin` on; returns where the next one begins."""
    data = os.pread(descriptor, 1 << 20, begin)
    whole = data[: data.rfind(b"\n") + 1]
    for line in whole.decode("utf-8", errors="replace").splitlines():
        say(line)
    return begin + len(whole)


def stop_run(run_dir: RunDir, wait_seconds: float, say: Say) -> Standing:
    """Ask a run to stop at the end of its step, and wait until it has. A run that has ended already is left alone.

    From another machine it is asked by a file that it looks for between steps. Raises RunError when it has not ended
    in time; it still will.
    """
    seen = standing(run_dir)
    if not seen.is_alive:
        return seen
    if seen.pid is not None and seen.host == socket.gethostname():
        try:
            os.kill(seen.pid, signal.SIGTERM)
        except PermissionError:
            _ask_by_file(run_dir)
        except ProcessLookupError:
            return standing(run_dir)
    else:
        _ask_by_file(run_dir)
    say(f"{run_dir.path}: asked to stop at the end of its step")
    deadline = time.monotonic() + wait_seconds
    while time.monotonic() < deadline:
        seen = standing(run_dir)
        if not seen.is_alive:
            return seen
        time.sleep(POLL_SECONDS)
    raise RunError(
        f"{run_dir.path}: still {seen.state} after {wait_seconds:g} s (step {seen.step} of {seen.num_steps}). It stops "
        "at the end of its step and saves; wait longer with --wait."
    )


def _ask_by_file(run_dir: RunDir) -> None:
    run_dir.file(STOP).touch(mode=0o600)
