"""Files that are whole or absent, and failed writes that say what to do."""

from __future__ import annotations

import contextlib
import errno
import glob
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunesmith.errors import RunError
from tunesmith.redact import redact

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""errno of a write that a full disk or a quota refused."""
PLAIN_FILE: int = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
"""For os.open: follow no symbolic link, which Windows cannot do, and translate no byte, as only Windows does."""


@contextlib.contextmanager
def open_private(path: Path, flags: int) -> Iterator[Any]:
    """Open a file for writing that its owner alone may read; `flags` of os.open. Raises RunError as `disk_errors`."""
    with disk_errors(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | PLAIN_FILE | flags, 0o600)
        with os.fdopen(descriptor, "a" if flags & os.O_APPEND else "w", encoding="utf-8") as file:
            yield file


def write_text(path: Path, text: str) -> None:
    """Write a private file whole: temporary name, flush to disk, rename. Secrets in it are redacted."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open_private(temporary, os.O_TRUNC) as file:
            file.write(redact(text))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_errors(path: Path, more: str = "") -> Iterator[None]:
    """Turn a failed write into a RunError that says how much room there is. `more` ends the message."""
    try:
        yield
    except Exception as error:
        number = _error_number(error)
        if number is None:
            raise
        more = more or "Nothing is lost: run the same command again once it can be written."
        if number in NO_ROOM:
            free = shutil.disk_usage(next(folder for folder in path.parents if folder.exists())).free
            raise RunError(
                f"{path}: the disk or a quota is full ({free / 1e9:.2f} GB free on the disk). Free some room. {more}"
            ) from error
        raise RunError(f"{path}: cannot be written ({os.strerror(number)}). {more}") from error


def _error_number(error: Exception) -> int | None:
    """errno of a failed write; safetensors wraps it into text."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


@contextlib.contextmanager
def replace_directory(target: Path, more: str = "") -> Iterator[Path]:
    """Write a private directory whole: yield a staging directory beside `target`, flush it, and rename it there.

    When the block raises, `target` is as it was; `more` ends the message of a failed write. One writer at a time:
    callers hold a lock, and what an earlier writer left when it was killed is removed.
    """
    with disk_errors(target, more):
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in target.parent.glob(f".{glob.escape(target.name)}.*.staging*"):
            shutil.rmtree(leftover, ignore_errors=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".staging", dir=target.parent))
    old = staging.with_suffix(".staging-old")
    try:
        with disk_errors(target, more):
            yield staging
            _flush_private(staging)
            if target.exists():
                target.rename(old)
            staging.rename(target)
            _flush(target.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _flush_private(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
        _flush(path)
    _flush(folder)


def _flush(path: Path) -> None:
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def finite(value: Any) -> Any:
    """`value` with every float that JSON cannot hold replaced by None."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
