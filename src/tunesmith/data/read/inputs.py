"""A path becomes tables: files, folders, globs, archives, addresses, data sets of the hub, standard input.

Every file is named as the user wrote it, and listed in a fixed order. What is wrong with a path is said here, before
anything is read: no such file (with the nearest name), a folder with nothing to read, an unknown format.
"""

from __future__ import annotations

import difflib
import glob
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
from tunesmith.data.read.archive import ENDING, is_archive, list_members
from tunesmith.data.read.bytes import InputFile, guard
from tunesmith.data.read.csv import open_csv
from tunesmith.data.read.documents import open_document
from tunesmith.data.read.hub import PREFIX, is_saved, load_hub, load_saved, open_dataset
from tunesmith.data.read.json import open_json
from tunesmith.data.read.parquet import open_parquet
from tunesmith.data.read.remote import fetch, is_remote
from tunesmith.data.read.table import Table, list_columns
from tunesmith.data.read.text import open_text
from tunesmith.disk import disk_errors
from tunesmith.errors import DataError
from tunesmith.recipe import DataSection

STDIN = "-"
FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".txt": "txt",
    ".text": "txt",
    ".md": "md",
    ".markdown": "md",
    ".html": "html",
    ".htm": "html",
    ".pdf": "pdf",
    ".docx": "docx",
}
COMPRESSED = (".gz", ".zst", ".bz2", ".xz", ENDING)
_ABOUT_FILES = ("readme", "license", "licence", "changelog", "copying", "notice")
_EXPECTED = "csv, tsv, json, jsonl, parquet, txt, md, html, pdf or docx, each also .gz, .zst, .bz2, .xz or .zip"


@dataclass(frozen=True)
class Input:
    """One table that can be opened. key: of its content alone; inputs with equal keys hold equal rows."""

    name: str
    key: str
    open: Callable[[], Table]


def find_inputs(path: str, section: DataSection) -> list[Input]:
    """The tables that `path` means. Nothing is parsed yet, but every file is read once for its key.

    Raises DataError when there is none, or one cannot be read.
    """
    if path.startswith(PREFIX):
        name, dataset, notes = load_hub(path, _named_columns(section))
        return [Input(name, dataset_fingerprint(dataset), partial(open_dataset, name, dataset, notes))]
    if path == STDIN:
        spooled = spool_stdin()
        return [_local_input(InputFile(spooled, "stdin", section.encoding), section)]
    place = Path(path).expanduser()
    if place.is_dir() and is_saved(place):
        name, dataset, notes = load_saved(path)
        key = _digest_all(sorted(file for file in place.rglob("*") if file.is_file()))
        return [Input(name, key, partial(open_dataset, name, dataset, notes))]
    return [_local_input(file, section) for file in find_files(path, section.encoding)]


def _local_input(file: InputFile, section: DataSection) -> Input:
    return Input(file.name, digest_file(file), partial(open_table, file, section))


def is_elsewhere(path: str) -> bool:
    """Whether reading `path` needs a network: a data set of the hub, or an address."""
    return path.startswith(PREFIX) or is_remote(path)


def _named_columns(section: DataSection) -> str:
    named = [name for name in (section.text, section.prompt, section.completion, section.messages) if name is not None]
    return f"the column{'s' * (len(named) > 1)} {list_columns(named)}" if named else "the same columns"


def find_files(path: str, encoding: str = "auto") -> list[InputFile]:
    """The files that `path` (a file, a folder, a glob or an address of one) means, sorted by name.

    Raises DataError when there is none.
    """
    if is_remote(path):
        files = [InputFile(copy.path, copy.name, encoding) for copy in fetch(path, _is_data)]
    else:
        files = [InputFile(file, str(file), encoding) for file in _find_local(path)]
    inputs = [found for file in files for found in _members(file)]
    if not inputs:
        raise DataError(f"{path}: the archive holds no file that can be read. Expected files in {_EXPECTED}.")
    return inputs


def _find_local(path: str) -> list[Path]:
    place = Path(path).expanduser()
    if place.is_dir():
        found = [file for file in sorted(place.rglob("*")) if _is_data(file.relative_to(place)) and file.is_file()]
        if not found:
            raise DataError(f"{path}: {_inside(place)}. Expected files in {_EXPECTED}.")
    elif place.exists():
        found = [place]
    elif glob.has_magic(path):
        names = sorted(glob.glob(str(place), recursive=True))  # noqa: PTH207  (Path.glob takes no absolute pattern)
        found = [file for file in map(Path, names) if file.is_file()]
        if not found:
            raise DataError(f"{path}: no file matches. Check the pattern and the folder it starts in ({Path.cwd()}).")
    else:
        raise DataError(f"{path}: no such file.{_did_you_mean(place)}")
    return found


def _members(file: InputFile) -> list[InputFile]:
    """The file itself, or the data files in it when it is a zip archive."""
    if not is_archive(file.name):
        return [file]
    names = list_members(file.path, file.name, _is_data)
    return [InputFile(file.path, f"{file.name}/{name}", file.encoding, member=name) for name in names]


def _is_data(file: PurePath) -> bool:
    """Whether a file of a folder is data: of a known format, not hidden, and no README or LICENSE about the data."""
    hidden = any(part.startswith((".", "_")) for part in file.parts)
    about = file.name.lower().startswith(_ABOUT_FILES)
    return not hidden and not about and (is_archive(file.name) or _format_of(file) is not None)


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
    return f" {'The folder holds ' + list_columns(names, 8) + '.' if names else 'The folder holds no data files.'}"


def _format_of(path: PurePath) -> str | None:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return FORMATS.get(suffixes[-1]) if suffixes else None


def _format_by_name(file: InputFile) -> str | None:
    """By the file's own ending; the only file of `a.csv.zip` may have none."""
    own = _format_of(PurePath(file.name))
    if own is None and file.member is not None:
        own = _format_of(PurePath(file.name.removesuffix(f"/{file.member}")))
    return own


def open_table(file: InputFile, section: DataSection) -> Table:
    """The table in one file, with a sample of its rows.

    Raises DataError when the format is unknown or the file cannot be read.
    """
    kind: str = section.format
    if kind == "auto":
        kind = _sniff_stdin(file, section) if file.name == "stdin" else _format_by_name(file) or "auto"
    if kind in ("csv", "tsv"):
        table = open_csv(file, section.delimiter, kind)
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
        raise DataError(f"{file.name}: {ending}. Expected {_EXPECTED}; or say which with data.format.")
    table.take_sample()
    return table


def _sniff_stdin(file: InputFile, section: DataSection) -> str:
    """The format of what was piped in: JSON by its bracket, Parquet by its mark, CSV when columns are asked for."""
    head = file.head()
    first = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if head.startswith(b"PAR1"):
        return "parquet"
    if first.startswith((b"{", b"[")):
        return "jsonl" if first.startswith(b"{") else "json"
    header = first.split(b"\n", 1)[0].decode("utf-8", errors="replace")
    asked = [name for name in (section.text, section.prompt, section.completion, section.messages) if name is not None]
    names = [name for source in asked for name in re.findall(r"\{([^{}]+)\}", source) or [source]] or ["text"]
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
