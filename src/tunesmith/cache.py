"""The user's cache: where it lies, and one process at a time in a part of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from tunesmith.disk import disk_errors

CACHE_ELSEWHERE = "The cache may lie elsewhere: set XDG_CACHE_HOME to a folder that can be written and has room."


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
def cache_lock(path: Path) -> Iterator[None]:
    """Let one process at a time go on. Raises RunError when the cache cannot be written, or cannot be locked."""
    lock = FileLock(path, mode=0o600)
    with disk_errors(path, CACHE_ELSEWHERE):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
