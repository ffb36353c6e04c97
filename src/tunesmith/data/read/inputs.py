"""A path becomes tables: files, folders, globs, archives, addresses, data sets of the hub, standard input, Python's."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path, PurePath
from typing import IO

from tunesmith.cache import CACHE_ELSEWHERE, cache_dir
from tunesmith.compat import dataset_fingerprint
from tunesmith.data.read import given
from tunesmith.data.read.bytes import InputFile, Tally, guard
from tunesmith.data.read.csv import open_csv
from tunesmith.data.read.documents import open_document
from tunesmith.data.read.files import EXPECTED, find_files, format_by_name
from tunesmith.data.read.hub import PREFIX, Loaded, is_saved, load_hub, load_saved, open_dataset
from tunesmith.data.read.json import open_json
from tunesmith.data.read.layout import UNSPLIT
from tunesmith.data.read.parquet import open_parquet
from tunesmith.data.read.remote import is_remote
from tunesmith.data.read.table import Table, list_columns
from tunesmith.data.read.text import open_text
from tunesmith.disk import disk_errors
from tunesmith.errors import DataError
from tunesmith.recipe import DataSection

STDIN = "-"


@dataclass(frozen=True)
class Input:
    """One table that can be opened. key: of its content alone; inputs with equal keys hold equal rows.

    side: the split that its name says, or UNSPLIT. notes: of its path, for a person. tally: what its last reader
    counted.
    """

    name: str
    key: str
    open: Callable[[], Table]
    side: int = UNSPLIT
    notes: tuple[str, ...] = ()
    tally: Tally | None = None


def find_inputs(path: str, section: DataSection) -> list[Input]:
    """The tables that `path` means. Nothing is parsed yet, but every file is read once for its key.

    Raises DataError when there is none, or one cannot be read.
    """
    by_name = section.splits == "auto" and section.split_column is None
    if path.startswith(PREFIX):
        loaded = load_hub(path, _say_columns(section), by_name=by_name)
        return [_dataset_input(split, dataset_fingerprint(split.dataset)) for split in loaded]
    if path == STDIN:
        spooled = spool_stdin()
        return [_local_input(InputFile(spooled, "stdin", section.encoding, section.fallback_encoding), section)]
    place = given.folder_of(path) if path.startswith(given.PREFIX) else Path(path).expanduser()
    if place.is_dir() and is_saved(place):
        key = _digest_all(sorted(file for file in place.rglob("*") if file.is_file()))
        return [_dataset_input(split, f"{key}:{split.name}") for split in load_saved(path, by_name=by_name)]
    found = given.find(path, section) if path.startswith(given.PREFIX) else find_files(path, section, named(section))
    return [_local_input(file, section, side, found.notes) for file, side in zip(found.files, found.sides, strict=True)]


def _local_input(file: InputFile, section: DataSection, side: int = UNSPLIT, notes: tuple[str, ...] = ()) -> Input:
    return Input(file.name, digest_file(file), partial(open_table, file, section), side, notes, file.tally)


def _dataset_input(split: Loaded, key: str) -> Input:
    return Input(split.name, key, partial(open_dataset, split.name, split.dataset, []), split.side, split.notes)


def is_elsewhere(path: str) -> bool:
    """Whether reading `path` needs a network: a data set of the hub, or an address."""
    return path.startswith(PREFIX) or is_remote(path)


def named(section: DataSection) -> list[str]:
    """The columns that the recipe names for a row's text, those of templates included."""
    asked = [name for name in (section.text, section.prompt, section.completion, section.messages) if name is not None]
    return [name for source in asked for name in re.findall(r"\{([^{}]+)\}", source) or [source]]


def _say_columns(section: DataSection) -> str:
    asked = [name for name in (section.text, section.prompt, section.completion, section.messages) if name is not None]
    return f"the column{'s' * (len(asked) > 1)} {list_columns(asked)}" if asked else "the same columns"


def open_table(file: InputFile, section: DataSection) -> Table:
    """The table in one file, with a sample of its rows.

    Raises DataError when the format is unknown or the file cannot be read.
    """
    kind: str = section.format
    if kind == "auto":
        kind = _sniff_stdin(file, section) if file.name == "stdin" else _format_of(file)
    if kind in ("csv", "tsv"):
        table = open_csv(file, section.delimiter, kind, named(section))
    elif kind in ("json", "jsonl"):
        table = open_json(file, kind)
    elif kind == "parquet":
        table = open_parquet(file)
    elif kind == "txt":
        table = open_text(file, section.by)
    elif kind in ("md", "html", "pdf", "docx"):
        table = open_document(file, kind, section.by)
    else:
        suffix = PurePath(file.name).suffix
        ending = f"the ending {suffix!r} is not known" if suffix else "the name has no ending"
        raise DataError(f"{file.name}: {ending}. Expected {EXPECTED}; or say which with data.format.")
    table.take_sample()
    return table


def _format_of(file: InputFile) -> str:
    """By its name; data from Python is called as its split, and is JSON Lines."""
    return format_by_name(file) or ("jsonl" if file.path.suffix == ".jsonl" else "auto")


def _sniff_stdin(file: InputFile, section: DataSection) -> str:
    """The format of what was piped in: JSON by its bracket, Parquet by its mark, CSV when columns are asked for."""
    head = file.head()
    first = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if head.startswith(b"PAR1"):
        return "parquet"
    if first.startswith((b"{", b"[")):
        return "jsonl" if first.startswith(b"{") else "json"
    header = first.split(b"\n", 1)[0].decode("utf-8", errors="replace")
    names = named(section) or ["text"]
    columns = re.split(r'["\s]*[,;\t|]["\s]*', header.strip(' "\r').lower())
    if any(name.lower() in columns for name in names):
        return "tsv" if "\t" in header else "csv"
    return "txt"


@cache
def spool_stdin() -> Path:
    """Standard input as a file in the cache, read once by this process; equal input is kept once.

    Raises DataError when nothing is piped in.
    """
    stream = sys.stdin.buffer
    if stream.isatty():
        raise DataError("data.path: - reads standard input, but nothing is piped in. Pipe a file: cat rows.jsonl | ...")
    folder = cache_dir() / "stdin"
    folder.mkdir(mode=0o700, exist_ok=True)
    temporary = folder / f".{os.getpid()}.tmp"
    digest = hashlib.blake2b(digest_size=16)
    try:
        with disk_errors(folder, CACHE_ELSEWHERE), temporary.open("wb") as file:
            temporary.chmod(0o600)
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
                file.write(chunk)
        return temporary.replace(folder / digest.hexdigest())
    finally:
        temporary.unlink(missing_ok=True)


def digest_file(file: InputFile) -> str:
    """BLAKE2b of a file's bytes. Raises DataError when it cannot be read."""
    with file.open_raw() as stream, guard(file):
        return _digest(stream).hexdigest()


def _digest_all(files: list[Path]) -> str:
    whole = hashlib.blake2b(digest_size=16)
    for file in files:
        whole.update(digest_file(InputFile(file, str(file))).encode())
    return whole.hexdigest()


def _digest(stream: IO[bytes]) -> hashlib.blake2b:
    digest = hashlib.blake2b(digest_size=16)
    while chunk := stream.read(1 << 20):
        digest.update(chunk)
    return digest
