"""A path becomes tables: files, folders, globs.

Every file is named as the user wrote it, and listed in a fixed order. What is wrong with a path is said here, before
anything is read: no such file (with the nearest name), a folder with nothing to read, an unknown format.
"""

from __future__ import annotations

import difflib
import glob
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tunesmith.data.read_bytes import InputFile, guard
from tunesmith.data.read_csv import open_csv
from tunesmith.data.read_json import open_json
from tunesmith.data.read_text import open_text
from tunesmith.data.table import Table
from tunesmith.errors import DataError
from tunesmith.recipe import DataSection

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".txt": "txt",
    ".text": "txt",
}
COMPRESSED = (".gz", ".zst")
_EXPECTED = "csv, tsv, json, jsonl, parquet or txt, each also .gz or .zst"


def find_files(path: str, section: DataSection) -> list[InputFile]:
    """The files that `path` (a file, a folder or a glob) means, sorted by name.

    Raises DataError when there is none.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        found = [file for file in sorted(place.rglob("*")) if _is_data(file, place)]
        if not found:
            raise DataError(f"{path}: {_inside(place)}. Expected files in {_EXPECTED}.")
    elif place.exists():
        found = [place]
    elif glob.has_magic(path):
        found = [file for file in map(Path, sorted(glob.glob(str(place), recursive=True))) if file.is_file()]
        if not found:
            raise DataError(f"{path}: no file matches. Check the pattern and the folder it starts in ({Path.cwd()}).")
    else:
        raise DataError(f"{path}: no such file.{_did_you_mean(place)}")
    return [InputFile(file, str(file), section.encoding) for file in found]


def _is_data(file: Path, root: Path) -> bool:
    hidden = any(part.startswith((".", "_")) for part in file.relative_to(root).parts)
    return not hidden and file.is_file() and _format_of(file) is not None


def _inside(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    if not names:
        return "is an empty folder"
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"is a folder without a file that can be read (holds {', '.join(names[:5])}{more})"


def _did_you_mean(place: Path) -> str:
    folder = place.parent
    if not folder.is_dir():
        return f" The folder {folder} does not exist either; paths are relative to {Path.cwd()}."
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() or _format_of(entry) is not None)
    close = difflib.get_close_matches(place.name, names, n=1, cutoff=0.5)
    if close:
        return f" Did you mean {folder / close[0]}?"
    return f" {'The folder holds ' + ', '.join(names[:8]) + '.' if names else 'The folder holds no data files.'}"


def _format_of(path: Path) -> str | None:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return FORMATS.get(suffixes[-1]) if suffixes else None


@dataclass(frozen=True)
class Input:
    """One table that can be opened. key: says its content without its name; two inputs with equal keys hold equal rows."""

    name: str
    key: str
    open: Callable[[], Table]


def find_inputs(path: str, section: DataSection) -> list[Input]:
    """The tables that `path` means. Nothing is parsed yet, but every file is read once for its key.

    Raises DataError when there is none, or one cannot be read.
    """
    return [
        Input(file.name, digest_file(file), partial(open_table, file, section)) for file in find_files(path, section)
    ]


def open_table(file: InputFile, section: DataSection) -> Table:
    """The table in one file, with a sample of its rows. Raises DataError when the format is unknown or cannot be read."""
    kind = _format_of(file.path) if section.format == "auto" else section.format
    if kind in ("csv", "tsv"):
        table = open_csv(file, section.delimiter, kind)
    elif kind in ("json", "jsonl"):
        table = open_json(file, kind)
    elif kind == "txt":
        table = open_text(file, section.by)
    else:
        ending = f"the ending {file.path.suffix!r} is not known" if file.path.suffix else "the name has no ending"
        raise DataError(f"{file.name}: {ending}. Expected {_EXPECTED}; or say which with data.format.")
    table.take_sample()
    return table


def digest_file(file: InputFile) -> str:
    """BLAKE2b of a file's bytes. Raises DataError when it cannot be read."""
    with file.open_raw() as stream, guard(file):
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
