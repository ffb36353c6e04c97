"""The files that a path means: itself, a folder's, a glob's, an archive's, those behind an address.

Every file is named as the user wrote it, and listed in a fixed order. What is wrong with a path is said here, before
anything is read: no such file (with the nearest name), a folder with nothing to read.
"""

from __future__ import annotations

import difflib
import glob
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

from tunesmith.data.read.archive import ENDING, is_archive, list_members
from tunesmith.data.read.bytes import InputFile
from tunesmith.data.read.layout import UNSPLIT, say_splits, split_sides, without_descriptions
from tunesmith.data.read.remote import fetch, is_remote
from tunesmith.data.read.table import list_columns
from tunesmith.data.split.assign import EVAL
from tunesmith.errors import DataError
from tunesmith.recipe import DataSection

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
EXPECTED = "csv, tsv, json, jsonl, parquet, txt, md, html, pdf or docx, each also .gz, .zst, .bz2, .xz or .zip"
_ABOUT_FILES = ("readme", "license", "licence", "changelog", "copying", "notice", "citation", "dataset_card")
_SHOWN = 3


@dataclass(frozen=True)
class Files:
    """What a path means. sides: TRAIN, EVAL or TEST of each file, or UNSPLIT; notes: what a person should know."""

    files: tuple[InputFile, ...]
    sides: tuple[int, ...]
    notes: tuple[str, ...] = ()

    def named(self, name: Callable[[str], str]) -> Files:
        """The same files under other names."""
        return replace(self, files=tuple(replace(file, name=name(file.name)) for file in self.files), notes=())


@dataclass
class _Found:
    paths: list[Path]
    notes: list[str] = field(default_factory=list)


def find_files(path: str, section: DataSection, columns: Collection[str] = ()) -> Files:
    """The files that `path` (a file, a folder, a glob or an address of one) means, sorted by name.

    columns: those that the recipe names; a file without any may be a description. Raises DataError when there is none.
    """
    found = _Found([]) if is_remote(path) else _find_local(path)
    places = (
        [(copy.path, copy.name) for copy in fetch(path, _is_data)]
        if is_remote(path)
        else [(file, str(file)) for file in found.paths]
    )
    whole = [InputFile(place, name, section.encoding, section.fallback_encoding) for place, name in places]
    files = [member for file in whole for member in _members(file)]
    if not files:
        raise DataError(f"{path}: the archive holds no file that can be read. Expected files in {EXPECTED}.")
    notes = list(found.notes)
    if len(files) > 1 or Path(path).expanduser().is_dir():
        files, about = without_descriptions(files, columns)
        if not files:
            raise DataError(
                f"{path}: holds only {', '.join(about[:_SHOWN])}, which describes data. Expected files of rows in "
                f"{EXPECTED}."
            )
        if about:
            more = f" and {len(about) - _SHOWN} more" if len(about) > _SHOWN else ""
            notes.append(f"{', '.join(about[:_SHOWN])}{more}: describes the data, not read as rows.")
    names = [file.name for file in files]
    by_name = section.splits == "auto" and section.split_column is None
    sides = split_sides(names) if by_name else [UNSPLIT] * len(names)
    if UNSPLIT not in sides:
        unused = " data.eval_fraction is not used." if EVAL in sides else ""
        notes.append(
            f"{path}: the files are read as splits: {say_splits(names, sides)}.{unused} data.splits: ignore mixes them."
        )
    return Files(tuple(files), tuple(sides), tuple(notes))


def _find_local(path: str) -> _Found:
    place = Path(path).expanduser()
    if place.is_dir():
        found = _walk(place)
        if not found.paths:
            links = f" {' '.join(found.notes)}" if found.notes else ""
            raise DataError(f"{path}: {_inside(place)}. Expected files in {EXPECTED}.{links}")
        return found
    if place.exists():
        return _Found([place])
    if glob.has_magic(path):
        names = sorted(glob.glob(str(place), recursive=True))  # noqa: PTH207  (Path.glob takes no absolute pattern)
        found = _without_loops([file for file in map(Path, names) if file.is_file()])
        if not found.paths:
            raise DataError(f"{path}: no file matches. Check the pattern and the folder it starts in ({Path.cwd()}).")
        return found
    raise DataError(f"{path}: no such file.{_did_you_mean(place)}")


def _walk(folder: Path) -> _Found:
    """The data files below a folder, symbolic links followed; a link back to a folder above itself is not."""
    found = _Found([])

    def visit(place: Path, above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
        try:
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError as error:
            found.notes.append(f"{place}: cannot be listed ({error.strerror}), so nothing in it is read.")
            return
        for entry in entries:
            path = place / entry.name
            if entry.name.startswith((".", "_")):
                continue
            if entry.is_dir():
                status = path.stat()
                key = (status.st_dev, status.st_ino)
                if key in above:
                    found.notes.append(_LOOP.format(path))
                else:
                    yield from visit(path, (*above, key))
            elif _is_data(PurePath(entry.name)):
                if path.is_file():
                    yield path
                elif entry.is_symlink():
                    found.notes.append(f"{path}: this link leads nowhere, so nothing is read by it.")

    status = folder.stat()
    found.paths += sorted(visit(folder, ((status.st_dev, status.st_ino),)))
    return found


_LOOP = "{}: this link leads back to a folder that it lies in, so it is not followed."


def _without_loops(files: list[Path]) -> _Found:
    """What a glob found, without what it found again through a link to a folder above the link."""
    resolved: dict[Path, Path] = {}
    loops: dict[Path, bool] = {}

    def leads_back(folder: Path) -> bool:
        if folder not in loops:
            resolved[folder] = folder.resolve()
            loops[folder] = folder.is_symlink() and any(
                resolved.setdefault(above, above.resolve()) == resolved[folder] for above in folder.parents
            )
        return loops[folder]

    found = _Found([])
    for file in files:
        if not any(leads_back(folder) for folder in file.parents):
            found.paths.append(file)
    found.notes += [_LOOP.format(folder) for folder, back in loops.items() if back and not _through(folder, loops)]
    return found


def _through(folder: Path, loops: dict[Path, bool]) -> bool:
    return any(loops.get(above, False) for above in folder.parents)


def _members(file: InputFile) -> list[InputFile]:
    """The file itself, or the data files in it when it is a zip archive."""
    if not is_archive(file.name):
        return [file]
    names = list_members(file.path, file.name, _is_data)
    return [
        InputFile(file.path, f"{file.name}/{name}", file.encoding, file.fallback_encoding, member=name)
        for name in names
    ]


def _is_data(file: PurePath) -> bool:
    """Whether a file of a folder is data: of a known format, not hidden, and no README or LICENSE about the data."""
    hidden = any(part.startswith((".", "_")) for part in file.parts)
    about = file.name.lower().startswith(_ABOUT_FILES)
    return not hidden and not about and (is_archive(file.name) or format_of(file) is not None)


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
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() or format_of(entry) is not None)
    close = difflib.get_close_matches(place.name, names, n=1, cutoff=0.5)
    if close:
        return f" Did you mean {folder / close[0]}?"
    return f" {'The folder holds ' + list_columns(names, 8) + '.' if names else 'The folder holds no data files.'}"


def format_of(path: PurePath) -> str | None:
    """The format that a name's ending says, what is packed included."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return FORMATS.get(suffixes[-1]) if suffixes else None


def format_by_name(file: InputFile) -> str | None:
    """By the file's own ending; the only file of `a.csv.zip` may have none."""
    own = format_of(PurePath(file.name))
    if own is None and file.member is not None:
        own = format_of(PurePath(file.name.removesuffix(f"/{file.member}")))
    return own
