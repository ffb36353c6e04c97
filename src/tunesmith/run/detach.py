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

import psutil

from tunesmith.errors import RunError
from tunesmith.run.artefacts import Status
from tunesmith.run.directory import STOP, RunDir
from tunesmith.run.lock import boot_id
from tunesmith.run.signals import StopRequest
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
            begun = status is not None and status != before and _is_of(status.pid, child.pid)
            said = _pass_on(output.fileno(), said, say)
            if code is not None and not begun:
                raise SystemExit(code)
            if begun and status is not None and status.pid is not None:
                return status.pid
            time.sleep(POLL_SECONDS)


def _is_of(pid: int | None, ours: int) -> bool:
    """Whether `pid` is the process `ours`, or one that it started: the first of several that train together."""
    try:
        return pid == ours or (pid is not None and psutil.Process(pid).ppid() == ours)
    except psutil.Error:
        return False


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


def wait_for(other: RunDir, run_dir: RunDir, stop: StopRequest, say: Say) -> None:
    """Wait until another run of this machine has ended, however it ends; `run_dir` says meanwhile that it waits.

    The caller holds the lock of `run_dir`. Raises Stopped when a stop is asked for meanwhile.
    """
    seen = standing(other)
    if seen.is_alive:
        say(f"waiting for {other.path} to end ({describe_place(seen)}); it may fail, and this run begins all the same")
        run_dir.write(_waiting(other))
    while seen.is_alive:
        stop.check()
        time.sleep(POLL_SECONDS)
        seen = standing(other)
    why = f" ({seen.why})" if seen.why else ""
    say(f"{other.path}: {seen.state}{why}; this run begins")


def describe_place(seen: Standing) -> str:
    """`step 40 of 82`."""
    return f"step {seen.step:,} of {seen.num_steps:,}"


def _waiting(other: RunDir) -> Status:
    return Status(
        state="waiting",
        doing=f"waiting for {other.path}",
        step=0,
        num_steps=0,
        loss=None,
        eval_loss=None,
        tokens_per_second=None,
        seconds_left=None,
        pid=os.getpid(),
        host=socket.gethostname(),
        boot=boot_id(),
        updated=time.time(),
    )
