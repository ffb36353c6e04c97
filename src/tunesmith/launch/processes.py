"""The training processes of one machine, started together, stopped together, with one exit code.

torchrun does the same but has one exit code for every failure, ends the others 30 seconds after a signal whether they
have saved or not, and answers a terminal that goes away with an end. A run tells apart a stop (75) from what its user
can fix (2), may save for minutes, and outlives its terminal. On several machines each runs its own share under the
names that torchrun reads: PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR and PET_MASTER_PORT.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import FrameType
from typing import IO, Any

from tunesmith.errors import RunError, Stopped

POLL_SECONDS = 0.1
GRACE_SECONDS = 15.0
"""How long the others may go on when one has failed: they wait for it in an exchange that cannot end."""
STOPPED_SECONDS = 60.0
"""How long one may be stopped (SIGSTOP, a debugger) before the run ends: the others wait for it."""
TOLD_LINES = 12
"""Last lines of a process that failed; the first process speaks for itself."""
STOPPED, DONE = Stopped.exit_code, 0
Say = Callable[[str], None]


@dataclass(frozen=True)
class Group:
    """Which share of all training processes this machine starts."""

    num_local: int
    num_nodes: int = 1
    node: int = 0
    address: str = "127.0.0.1"
    port: int = 0

    @classmethod
    def of(cls, num_local: int, environment: Mapping[str, str]) -> Group:
        """`num_local` processes here, and on as many machines as torchrun's variables name.

        Raises RunError for numbers that make no group.
        """
        if num_local < 1:
            raise RunError(f"--procs {num_local}: expected at least 1.")
        nodes, node = (_number(environment, name, default) for name, default in (("NNODES", 1), ("NODE_RANK", 0)))
        if not 0 <= node < nodes:
            raise RunError(f"PET_NODE_RANK={node}: expected 0 to {nodes - 1}, as PET_NNODES={nodes}.")
        if nodes == 1:
            return cls(num_local, port=_free_port())
        address = environment.get("PET_MASTER_ADDR", "")
        if not address:
            raise RunError("PET_NNODES is set, PET_MASTER_ADDR is not. Set it to the address of the first machine.")
        return cls(num_local, nodes, node, address, _number(environment, "MASTER_PORT", 29500))

    @property
    def num_processes(self) -> int:
        """Over all machines."""
        return self.num_nodes * self.num_local

    def environment(self, local_rank: int, cores: int) -> dict[str, str]:
        """What one process is told, under torch.distributed's names."""
        told = {
            "RANK": self.node * self.num_local + local_rank,
            "LOCAL_RANK": local_rank,
            "WORLD_SIZE": self.num_processes,
            "LOCAL_WORLD_SIZE": self.num_local,
            "MASTER_ADDR": self.address,
            "MASTER_PORT": self.port,
        }
        if "OMP_NUM_THREADS" not in os.environ:  # each with all cores would be many more threads than cores
            told["OMP_NUM_THREADS"] = max(1, cores // self.num_local)
        return {name: str(value) for name, value in told.items()}


def run_together(
    command: Sequence[str],
    group: Group,
    say: Say,
    *,
    stop_on_hangup: bool = False,
    grace_seconds: float = GRACE_SECONDS,
    stopped_seconds: float = STOPPED_SECONDS,
) -> int:
    """Run a command in every process of this machine's share; returns the exit code of them all.

    0: all are done. 75: stopped, to be gone on with. Else the code of the process that failed first; the others are
    ended, and what the failed one said last is said here. 1: one was stopped by a signal for `stopped_seconds`; all are
    ended. A stop or an interrupt is passed on to all of them.
    """
    with ExitStack() as stack:
        said = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(group.num_local)]
        processes = [
            _start(command, group, rank, None if rank == 0 and group.node == 0 else said[rank])
            for rank in range(group.num_local)
        ]
        stack.callback(_kill, processes)
        stack.enter_context(_Passing(processes, stop_on_hangup))
        failed = _wait(processes, grace_seconds, stopped_seconds)
        if failed is None:
            return STOPPED if any(process.returncode == STOPPED for process in processes) else DONE
        code = processes[failed].poll()
        _explain(failed, code, group, said[failed], say)
        for rank, process in enumerate(processes):
            if rank != failed and code is not None and process.poll() is None:
                how = " (it is stopped)" if _is_stopped(process) else ""
                say(f"{_named(rank, group)} did not answer and was ended{how}")
        return code if code is not None and code > 0 else 1


def is_worker(environment: Mapping[str, str]) -> bool:
    """Whether a launcher started this process as one of several."""
    return "RANK" in environment and "WORLD_SIZE" in environment


def tunesmith(arguments: Sequence[str]) -> list[str]:
    """The command `tunesmith ARGUMENTS` of this very installation."""
    return [sys.executable, "-m", "tunesmith", *arguments]


def _start(command: Sequence[str], group: Group, rank: int, said: IO[bytes] | None) -> subprocess.Popen[bytes]:
    """One process. It has a session of its own, so that Ctrl-C reaches it once, through `_Passing`."""
    return subprocess.Popen(
        command,
        env={**os.environ, **group.environment(rank, os.cpu_count() or 1)},
        stdin=subprocess.DEVNULL,
        stdout=None if said is None else subprocess.DEVNULL,
        stderr=said,
        start_new_session=True,
    )


def _wait(processes: Sequence[subprocess.Popen[bytes]], grace_seconds: float, stopped_seconds: float) -> int | None:
    """Wait for all. Returns the local rank that failed first, or None; the others then have had their time.

    One that does not go on counts as failed while it still runs.
    """
    failed, deadline = None, 0.0
    since: dict[int, float] = {}
    """When each process was first seen to be stopped."""
    while any(process.poll() is None for process in processes):
        if failed is None:
            failed = _failed(processes)
            deadline = time.monotonic() + grace_seconds
            for rank, process in enumerate(processes):
                if not _is_stopped(process):
                    since.pop(rank, None)
                elif time.monotonic() - since.setdefault(rank, time.monotonic()) > stopped_seconds:
                    return rank
        elif time.monotonic() > deadline:
            return failed
        time.sleep(POLL_SECONDS)
    return failed if failed is not None else _failed(processes)


def _failed(processes: Sequence[subprocess.Popen[bytes]]) -> int | None:
    return next((rank for rank, one in enumerate(processes) if one.poll() not in (None, DONE, STOPPED)), None)


def _is_stopped(process: subprocess.Popen[bytes]) -> bool:
    """By a signal or a debugger."""
    import psutil

    try:
        stopped = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
        return process.returncode is None and psutil.Process(process.pid).status() in stopped
    except psutil.Error:
        return False


def _named(rank: int, group: Group) -> str:
    return f"process {group.node * group.num_local + rank} of {group.num_processes}"


def _kill(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.kill()
    for process in processes:
        process.wait()


def _explain(rank: int, code: int | None, group: Group, said: IO[bytes], say: Say) -> None:
    if code is None:
        say(
            f"{_named(rank, group)} is stopped (SIGSTOP, or a debugger) and the others wait for it; all were ended. "
            "The same command goes on from the newest checkpoint."
        )
        return
    number = group.node * group.num_local + rank
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"failed (exit code {code})"
    if group.num_processes > 1 and (number > 0 or code < 0):
        say(f"{_named(rank, group)} {how}; the others were ended")
    said.seek(0)
    for line in said.read().decode("utf-8", errors="replace").splitlines()[-TOLD_LINES:]:
        say(line)


class _Passing:
    """Passes SIGTERM and SIGINT on as SIGTERM: the first asks all for a stop, the second ends them at once."""

    def __init__(self, processes: Sequence[subprocess.Popen[bytes]], stop_on_hangup: bool) -> None:
        self._processes, self._stop_on_hangup = processes, stop_on_hangup
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> _Passing:
        for name in ("SIGTERM", "SIGINT", "SIGHUP"):
            if hasattr(signal, name):  # Windows has no SIGHUP
                number = signal.Signals[name]
                self._before[number] = signal.signal(number, self._pass)
        return self

    def __exit__(self, *error: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _pass(self, number: int, _: FrameType | None) -> None:
        if number == getattr(signal, "SIGHUP", None) and not self._stop_on_hangup:
            return
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(f"PET_{name}", str(default))
    try:
        return int(text)
    except ValueError:
        raise RunError(f"PET_{name}={text}: expected a number.") from None


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port
