"""One writer a run: a lock file that says who, where and since when.

The lock of a process that is gone is taken over with a note. A process is the same one only when its start time is the
same too: process ids are used again. Locks are taken under a guard, a file lock that the system ends with its process,
so that of two processes that both find a stale lock only one wins.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Literal

import psutil
from filelock import FileLock
from pydantic import ValidationError

from tunesmith.disk import PLAIN_FILE, disk_errors
from tunesmith.errors import RunError
from tunesmith.redact import redact
from tunesmith.run.artefacts.record import Record
from tunesmith.run.directory import LOCK, RunDir

MAX_LOCK_BYTES = 100_000
GUARD = ".lock.guard.tmp"
"""Named as what a killed writer leaves, so that the next one removes it."""


class Writer(Record):
    """The process that holds the lock: the content of the lock file."""

    pid: int
    host: str
    start: str | None
    """As the kernel counts it."""
    since: str
    """As people read it."""
    boot: str
    space: str
    """The process id space, which is another in every container."""
    command: str


class RunLock:
    """Holds `lock` in a run directory while the context is open. `note` is told of a lock that is taken over.

    Raises RunError when another process writes this run, or may: one on another machine cannot be seen from here.
    """

    def __init__(self, run_dir: RunDir, note: Callable[[str], None] = lambda _: None) -> None:
        self.path = run_dir.file(LOCK)
        self.note = note
        self._mine: Writer | None = None

    def __enter__(self) -> RunLock:
        mine = _describe_self()
        with disk_errors(self.path), _guard(self.path.parent):
            try:
                descriptor = self._create()
            except FileExistsError:
                self.note(self._why_stale(mine))
                self.path.unlink()
                descriptor = self._create()
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    file.write(mine.model_dump_json())
                    file.flush()
                    os.fsync(file.fileno())
            except OSError:
                self.path.unlink()  # an empty lock would say that somebody was here
                raise
        self._mine = mine
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._mine is None or self._mine.pid != os.getpid():
            return  # a forked child does not end its parent's lock
        with contextlib.suppress(OSError), _guard(self.path.parent):
            if _read(self.path) == self._mine:
                self.path.unlink()
        self._mine = None

    def _create(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | PLAIN_FILE, 0o600)

    def _why_stale(self, mine: Writer) -> str:
        """Why the lock that stands here may be taken over. Raises RunError when it may not."""
        if self.path.is_symlink() or not self.path.is_file():
            raise RunError(f"{self.path}: is not a lock file but a link or a folder. Remove it yourself.")
        other = _read(self.path)
        if other is None:
            return f"{self.path}: taken over; its writer was stopped before it had signed it"
        who = f"process {other.pid} on {other.host}, started {other.since}"
        standing = _standing(other, mine)
        if standing == "gone":
            return f"{self.path}: taken over from {who}, which is gone"
        if standing == "unseen":
            raise RunError(
                f"{self.path}: this run is written by {who} ({other.command}), which cannot be seen from "
                f"{mine.host}. If it has ended, delete {self.path} and run the same command again."
            )
        raise RunError(
            f"{self.path}: this run is written by {who} ({other.command}). Wait for it, stop it with "
            f"`kill {other.pid}` (it saves first), or choose another --out."
        )


def read_lock(run_dir: RunDir) -> Writer | None:
    """Who holds the lock, or None when nobody does."""
    return _read(run_dir.file(LOCK))


def writer_of(run_dir: RunDir) -> Literal["alive", "gone", "unseen", "none"]:
    """What is known here of the process that holds the lock; unseen: it may live on another machine."""
    other = read_lock(run_dir)
    return "none" if other is None else _standing(other, _describe_self())


def _standing(other: Writer, mine: Writer) -> Literal["alive", "gone", "unseen"]:
    """What is known here about the process that `other` describes."""
    if other.host != mine.host:
        return "unseen"
    if other.boot != mine.boot:
        return "gone"  # this machine was started again
    if other.space != mine.space:
        return "unseen"  # another container on this machine
    return "alive" if other.start == process_start(other.pid) else "gone"


def process_start(pid: int) -> str | None:
    """When a process of this machine started, as the kernel counts it; None when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        with contextlib.suppress(psutil.Error):
            return f"{psutil.Process(pid).create_time():.0f}"
        return None
    state, *fields = stat.rpartition(")")[2].split()  # the name before it may hold spaces and brackets
    return None if state in "ZX" else fields[18]


def _describe_self() -> Writer:
    return Writer(
        pid=os.getpid(),
        host=socket.gethostname(),
        start=process_start(os.getpid()),
        since=time.strftime("%Y-%m-%d %H:%M:%S %z"),
        boot=boot_id(),
        space=_link_of("/proc/self/ns/pid"),
        command=redact(shlex.join(sys.argv))[:200].encode("utf-8", "replace").decode("utf-8"),
    )


def _read(path: Path) -> Writer | None:
    """The content of a lock, or None when there is none or its writer did not finish it."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | PLAIN_FILE), "rb") as file:
            return Writer.model_validate_json(file.read(MAX_LOCK_BYTES))
    except (OSError, ValidationError):
        return None


@contextlib.contextmanager
def _guard(folder: Path) -> Iterator[None]:
    """Let one process at a time look at and change the lock of a run directory. Nothing of it stays there."""
    guard = FileLock(folder / GUARD, mode=0o600, poll_interval=0.01)
    with contextlib.suppress(OSError, NotImplementedError):  # a file system without locks: O_EXCL still stands
        guard.acquire()
    try:
        yield
    finally:
        if guard.is_locked:
            with contextlib.suppress(OSError):
                (folder / GUARD).unlink(missing_ok=True)  # who waits for this file sees that, and makes another
        with contextlib.suppress(OSError):
            guard.release()


def boot_id() -> str:
    """Another text each time this machine starts, where it says so; else empty."""
    return _text_of("/proc/sys/kernel/random/boot_id")


def _text_of(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _link_of(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""
