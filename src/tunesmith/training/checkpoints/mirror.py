"""Copies of sealed checkpoints at another place (`save.mirror`): for machines that go away with their disks.

A copy is made in the background while training goes on. Its manifest comes last, so that a copy without one is none, as
on a disk. Where a run has no checkpoint of its own it takes the newest whole one from there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import urlsplit

from tunesmith.cache import cache_dir, cache_lock
from tunesmith.data.read.remote import EXTRAS
from tunesmith.disk import NO_ROOM, disk_errors
from tunesmith.errors import RunError
from tunesmith.redact import first_line
from tunesmith.training.checkpoints.checkpoint import MANIFEST, checkpoint_steps, is_whole, read_manifest

SCHEMES = ("s3", "gs", "file", "memory")
CHUNK_BYTES = 16 << 20


class Mirror:
    """The checkpoints of one run at an address such as s3://bucket/runs/shows. The first process alone writes there.

    note: is told what did not work; a mirror that cannot be written ends no run.
    """

    def __init__(self, address: str, note: Callable[[str], None]) -> None:
        self.address, self._note = address.rstrip("/"), note
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mirror")
        self._last: Future[None] | None = None
        self._failed: list[str] = []

    def check(self) -> None:
        """Raise RunError where the address is of another kind, or a package is missing."""
        assert self._place

    @cached_property
    def _place(self) -> tuple[Any, str]:
        """The file system, and the folder in it."""
        scheme = urlsplit(self.address).scheme
        if scheme not in SCHEMES:
            raise RunError(
                f"save.mirror: {self.address}: expected an address that can be written: s3://, gs:// or file:///."
            )
        from fsspec.core import url_to_fs

        options = {"auto_mkdir": True} if scheme == "file" else {}
        try:
            system, place = url_to_fs(self.address, use_listings_cache=False, **options)
        except ImportError as error:
            how = f"'tunesmith[{EXTRAS[scheme]}]'" if scheme in EXTRAS else "--upgrade tunesmith"
            raise RunError(
                f"save.mirror: {scheme}:// needs a package that is not installed ({first_line(error)}). "
                f"Run: pip install {how}"
            ) from None
        return system, place.rstrip("/")

    def push(self, checkpoint: Path) -> None:
        """Copy a sealed checkpoint, in the background; one that still waits for its turn is left out for it.

        Those stay there that the run has now. The folder may be removed as soon as this returns.
        """
        self._tell()
        if self._last is not None:
            self._last.cancel()
        names = [*read_manifest(checkpoint).files, MANIFEST]
        with ExitStack() as opened:
            files = [(name, opened.enter_context((checkpoint / name).open("rb"))) for name in names]
            self._last = self._pool.submit(self._copy, checkpoint.name, files, checkpoint_steps(checkpoint.parent))
            held = opened.pop_all()
        self._last.add_done_callback(lambda _: held.close())

    def close(self) -> None:
        """Wait for the last copy."""
        self._pool.shutdown()
        self._tell()

    def pull(self, root: Path, say: Callable[[str], None]) -> None:
        """Bring the newest whole checkpoint into a run that has none. One process of a machine does, others wait.

        Raises RunError where the address cannot be read.
        """
        name = hashlib.blake2b(str(root.absolute()).encode(), digest_size=16).hexdigest()
        with cache_lock(cache_dir() / "mirror-locks" / name, signs=lambda: _num_bytes(root)):
            if checkpoint_steps(root):
                return
            for step in reversed(self._steps()):
                if self._fetched(root, step):
                    say(f"step-{step} was taken from {self.address}")
                    return
                say(f"passed over step-{step} of {self.address}: it is not whole")

    def clear(self) -> None:
        """Remove the checkpoints of the run before, where a run starts over."""
        for step in self._steps():
            self._remove(step)

    def _copy(self, name: str, files: Sequence[tuple[str, IO[bytes]]], kept: Sequence[int]) -> None:
        try:
            system, place = self._place
            for file_name, file in files:
                with system.open(f"{place}/{name}/{file_name}", "wb") as there:
                    shutil.copyfileobj(file, there, CHUNK_BYTES)
            for step in self._steps():
                if step not in kept:
                    self._remove(step)
        except Exception as error:  # a client of an address raises dozens of kinds
            self._failed.append(f"{name} could not be copied to {self.address} ({first_line(error)})")

    def _tell(self) -> None:
        while self._failed:
            self._note(f"save.mirror: {self._failed.pop(0)}; the run goes on, and so does the copying of later ones")

    def _steps(self) -> list[int]:
        """Of the copies that have a manifest, rising."""
        system, place = self._place
        try:
            found = system.glob(f"{place}/step-*/{MANIFEST}")
        except Exception as error:
            raise self._unreadable(error) from None
        numbers = (PurePosixPath(path).parent.name.removeprefix("step-") for path in found)
        return sorted(int(number) for number in numbers if number.isdecimal())

    def _remove(self, step: int) -> None:
        """The manifest first, so that no half of it is taken for a copy."""
        system, place = self._place
        with suppress(FileNotFoundError):
            system.rm(f"{place}/step-{step}/{MANIFEST}")
            system.rm(f"{place}/step-{step}", recursive=True)

    def _fetched(self, root: Path, step: int) -> bool:
        """Whether step-N came whole."""
        staging = root / f".step-{step}.{os.getpid()}.tmp"
        try:
            staging.mkdir(mode=0o700, parents=True)
            self._fetch(step, MANIFEST, staging)
            for name in read_manifest(staging).files:
                self._fetch(step, name, staging)
            if not is_whole(staging):
                return False
            staging.rename(root / f"step-{step}")
        except (ValueError, FileNotFoundError):
            return False
        except Exception as error:
            if isinstance(error, OSError) and error.errno in NO_ROOM:
                with disk_errors(root):
                    raise
            raise self._unreadable(error) from None
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return True

    def _fetch(self, step: int, name: str, staging: Path) -> None:
        system, place = self._place
        here = staging / name
        here.parent.mkdir(mode=0o700, exist_ok=True)
        with system.open(f"{place}/step-{step}/{name}", "rb") as there, here.open("wb") as file:
            shutil.copyfileobj(there, file, CHUNK_BYTES)
        here.chmod(0o600)

    def _unreadable(self, error: Exception) -> RunError:
        return RunError(
            f"save.mirror: {self.address}: cannot be read ({first_line(error)}). Check the address, its login and the "
            "network; save.mirror: null does without."
        )


def _num_bytes(root: Path) -> int:
    """Of what is being fetched."""
    total = 0
    for path in root.glob(".step-*.tmp/**/*"):
        with suppress(OSError):  # it is renamed meanwhile
            total += path.stat().st_size
    return total
