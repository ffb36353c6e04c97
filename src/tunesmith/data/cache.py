"""Prepared data in the user's cache: found again by the content of the files, the recipe and the tokenizer.

An entry is built in NAME.BOOT.partial and renamed when it is whole, so a reader sees all of it or nothing. One process
builds; others wait for it, and read it together. What a killed process leaves in NAME.BOOT.partial is taken up by the
next.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tunesmith.cache import cache_dir, cache_lock
from tunesmith.disk import write_text
from tunesmith.errors import RunError
from tunesmith.run.artefacts import Record

R = TypeVar("R", bound=Record)
MAX_BYTES = 50 << 30
KEEP_SECONDS = 3600.0


def key_of(content: Mapping[str, object]) -> str:
    """The name of an entry: a hash of everything that decides what is in it."""
    return hashlib.blake2b(json.dumps(content, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


class Entry:
    """One prepared data set. `folder` is where it lies, or where it is being built."""

    def __init__(self, root: Path, key: str) -> None:
        self.final = root / key
        self.partial = root / f"{key}.{_boot()}.partial"

    @property
    def is_complete(self) -> bool:
        return self.final.is_dir()

    @property
    def stamp(self) -> int | None:
        """Which of several that were built one after another; None before the first."""
        if not self.is_complete:
            return None
        return max((file.stat().st_mtime_ns for file in self.final.iterdir() if file.is_file()), default=0)

    @property
    def folder(self) -> Path:
        return self.final if self.is_complete else self.partial

    def reopen(self) -> None:
        """Build it, anew when what lies there as complete is damaged.

        What a killed process left is kept. What stems from before the machine last started is not: a power cut may have
        taken what was written.
        """
        if self.is_complete:
            shutil.rmtree(self.final)
        for other in self.partial.parent.glob(f"{self.final.name}.*partial"):
            if other != self.partial:
                shutil.rmtree(other)
        self.partial.mkdir(mode=0o700, exist_ok=True)

    def complete(self) -> None:
        """Make what was built visible, in one step."""
        self.partial.rename(self.final)

    def discard(self) -> None:
        shutil.rmtree(self.partial, ignore_errors=True)


def _boot() -> str:
    """Another name each time the machine starts, where it says so."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]
    except OSError:
        return "0"


def find_entry(key: str) -> Entry:
    """The entry called `key` as it lies there. One that is complete may be read by many."""
    entry = Entry(cache_dir() / "data", key)
    if entry.is_complete:
        os.utime(entry.final)
    return entry


@contextmanager
def open_entry(key: str) -> Iterator[Entry]:
    """The entry called `key`, held by this process alone while it is open: to build it.

    Raises RunError when the process that builds it hangs.
    """
    root = cache_dir() / "data"
    with cache_lock(root / f"{key}.lock", signs=lambda: _last_written(root, key)):
        entry = Entry(root, key)
        if entry.is_complete:
            os.utime(entry.final)
        else:
            entry.reopen()
            _make_room(root, keep=key)
        yield entry


def _last_written(root: Path, key: str) -> float:
    """When an entry that is built changed last."""
    times = [0.0]
    for file in root.glob(f"{key}.*partial/**/*"):
        with contextlib.suppress(OSError):  # it is moved or removed meanwhile
            times.append(file.stat().st_mtime)
    return max(times)


def _make_room(root: Path, keep: str) -> None:
    """Remove the entries that were not used for longest while the cache is larger than MAX_BYTES."""
    now = time.time()
    entries = [entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(keep)]
    sizes = {entry: sum(file.stat().st_size for file in entry.rglob("*") if file.is_file()) for entry in entries}
    total = sum(sizes.values())
    for entry in sorted(entries, key=lambda entry: entry.stat().st_mtime):
        if total <= MAX_BYTES or now - entry.stat().st_mtime < KEEP_SECONDS:
            return
        shutil.rmtree(entry, ignore_errors=True)
        total -= sizes[entry]


def read_state(path: Path, kind: type[R]) -> R | None:
    """What `write_state` wrote, or None where it is missing or damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return kind.parse(value, str(path)) if isinstance(value, dict) else None
    except (OSError, ValueError, RunError):
        return None


def write_state(path: Path, value: Record) -> None:
    """Write `value` as JSON, whole or not at all."""
    write_text(path, json.dumps(value.to_json()))
