"""The files inside a zip archive. Nothing is unpacked to disk: a member is read as if it lay there by itself."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO

from tunesmith.errors import DataError
from tunesmith.units import format_bytes

ENDING = ".zip"
MAX_MEMBERS = 100_000
MAX_RATIO = 200
"""Of what an archive of more than SAFE_BYTES unpacks to over its own size; text comes to 3 to 30."""
SAFE_BYTES = 1 << 30
_IS_ENCRYPTED = 0x1
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError)


def is_archive(name: str) -> bool:
    """Whether a file of this name is read as a zip archive."""
    return name.lower().endswith(ENDING)


def list_members(path: Path, name: str, is_data: Callable[[PurePosixPath], bool]) -> list[str]:
    """Names of the data files in an archive, sorted; its only file counts whatever it is called.

    Raises DataError when the archive is damaged, encrypted, or unpacks to far more than text would.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    except OSError as error:
        raise DataError(
            f"{name}: cannot be read ({error.strerror or error}). Check the path and its permissions."
        ) from None
    except (*DAMAGED, ValueError, NotImplementedError) as error:
        raise DataError(f"{name}: is not a whole zip archive ({error}). Copy or download it again.") from None
    _refuse_bomb(name, entries, path.stat().st_size)
    visible = [entry for entry in entries if not entry.filename.startswith(("__MACOSX/", "."))]
    chosen = [entry for entry in entries if is_data(PurePosixPath(entry.filename)) and not is_archive(entry.filename)]
    chosen = chosen or (visible if len(visible) == 1 else [])
    if any(entry.flag_bits & _IS_ENCRYPTED for entry in chosen):
        raise DataError(f"{name}: is encrypted. Unpack it with its password and give the unpacked files.")
    return sorted({entry.filename for entry in chosen})


def _refuse_bomb(name: str, entries: list[zipfile.ZipInfo], size: int) -> None:
    """Sizes are those that the archive declares; a member gives no byte more than its own."""
    unpacked, packed = sum(entry.file_size for entry in entries), sum(entry.compress_size for entry in entries)
    found = None
    if len(entries) > MAX_MEMBERS:
        found = f"holds {len(entries):,} files, more than {MAX_MEMBERS:,}"
    elif packed > size:
        found = f"its members overlap: {format_bytes(packed)} in a file of {format_bytes(size)}"
    elif unpacked > max(SAFE_BYTES, MAX_RATIO * size):
        found = f"unpacks from {format_bytes(size)} to {format_bytes(unpacked)}, more than {MAX_RATIO} times as much"
    if found is not None:
        raise DataError(
            f"{name}: {found}, as archives made to fill a disk do. If it is what you expect, unpack it and give the "
            "folder."
        )


def open_member(path: Path, member: str, name: str) -> IO[bytes]:
    """The unpacked bytes of one member. Raises DataError when they cannot be had."""
    try:
        archive = zipfile.ZipFile(path)
        try:
            return io.BufferedReader(archive.open(member))  # type: ignore[type-var, unused-ignore]
        finally:
            archive.close()  # the member keeps the file open for itself
    except OSError as error:
        raise DataError(
            f"{name}: cannot be read ({error.strerror or error}). Check the path and its permissions."
        ) from None
    except (*DAMAGED, KeyError, RuntimeError, NotImplementedError) as error:
        raise DataError(
            f"{name}: cannot be unpacked ({error}). Unpack it yourself and give the unpacked file."
        ) from None
