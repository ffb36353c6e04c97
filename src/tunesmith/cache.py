"""The user's cache: where it lies, and one process at a time in a part of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from tunesmith.disk import disk_errors
from tunesmith.errors import RunError

CACHE_ELSEWHERE = "The cache may lie elsewhere: set XDG_CACHE_HOME to a folder that can be written and has room."

LOOK_SECONDS = 10.0
PATIENCE_SECONDS = 1800.0
"""How long another process may work in a part of the cache without a sign of it: comparing many rows writes nothing."""


def cache_dir() -> Path:
    """The user's cache of tunesmith, $XDG_CACHE_HOME/tunesmith or ~/.cache/tunesmith; made (0700) when missing.

    Raises RunError when it cannot be made.
    """
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(root) / "tunesmith"
    with disk_errors(path, CACHE_ELSEWHERE):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


@contextmanager
def cache_lock(
    path: Path, *, signs: Callable[[], object] = lambda: None, patience: float = PATIENCE_SECONDS
) -> Iterator[None]:
    """Let one process at a time go on; one that is killed lets the next go on.

    signs: what changes while the process that goes on works. Raises RunError when the cache cannot be written or cannot
    be locked, and when nothing changed for `patience` seconds: that process hangs.
    """
    lock = FileLock(path, mode=0o600)
    with disk_errors(path, CACHE_ELSEWHERE):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _acquire(lock, signs, patience)
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock, signs: Callable[[], object], patience: float) -> None:
    seen, since = signs(), time.monotonic()
    while True:
        try:
            lock.acquire(timeout=min(LOOK_SECONDS, patience))
            return
        except Timeout:
            now = signs()
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since >= patience:
                raise RunError(
                    f"{lock.lock_file}: another process works there, and has written nothing for "
                    f"{patience / 60:.0f} minutes. It may hang or be stopped; end it, and run the same command again."
                ) from None
