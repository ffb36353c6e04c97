"""Data that a Python caller hands over: a pandas or polars frame, a `datasets.Dataset`, a list of texts or of dicts.

It is written once, as JSON Lines, into the user's cache under the hash of its rows, and named `python:HASH` in the
recipe: so a run that is resumed finds it again, and no path of this machine stands in the recipe. What a thing is, is
told by what it can do: neither pandas nor polars is imported here.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.cache import CACHE_ELSEWHERE, cache_dir
from tunesmith.data.read.files import Files, find_files
from tunesmith.data.split.assign import NAMES
from tunesmith.disk import disk_errors
from tunesmith.errors import DataError
from tunesmith.recipe import DataSection

PREFIX = "python:"
EXPECTED = "a pandas or polars frame, a datasets.Dataset, a list of texts or of dicts, or a dict of splits or columns"
_BATCH_ROWS = 1024


def folder_of(path: str) -> Path:
    """Where the data called `python:HASH` lies."""
    return cache_dir() / "python" / path.removeprefix(PREFIX)


def find(path: str, section: DataSection) -> Files:
    """The files of `python:HASH`, called `data` or by their splits. Raises DataError when this machine has them not."""
    folder = folder_of(path)
    if not path.removeprefix(PREFIX).isalnum() or not folder.is_dir():
        raise DataError(
            f"data.path: {path}: this data came from Python and is not in the cache of this machine. Call "
            "tunesmith.train with the same data= again, or set data.path to a file."
        )
    os.utime(folder)
    return find_files(str(folder), section).named(lambda name: Path(name).stem)


def keep(data: Any) -> str:
    """Write `data` into the cache, once for equal rows; returns its `python:HASH`.

    Raises DataError when it is no data.
    """
    root = cache_dir() / "python"
    root.mkdir(mode=0o700, exist_ok=True)
    digest = hashlib.blake2b(digest_size=16)
    with disk_errors(root, CACHE_ELSEWHERE), tempfile.TemporaryDirectory(dir=root, prefix=".") as temporary:
        folder = Path(temporary) / "rows"
        folder.mkdir(mode=0o700)
        for name, rows in _tables(data).items():
            digest.update(name.encode() + b"\0")
            with (folder / f"{name}.jsonl").open("wb") as file:
                for number, row in enumerate(_rows(rows), start=1):
                    line = _line(row, f"data: row {number}")
                    digest.update(line)
                    file.write(line)
                if not file.tell():
                    raise DataError(f"data: {name} holds no rows. Expected {EXPECTED}.")
        target = root / digest.hexdigest()
        if target.is_dir():
            os.utime(target)
        else:
            shutil.move(folder, target)
    return PREFIX + target.name


def _tables(data: Any) -> dict[str, Any]:
    """Splits by name where `data` is a dict of them (as datasets.DatasetDict); else one table called data."""
    if isinstance(data, Mapping):
        if data and all(str(name).lower() in NAMES for name in data):
            return {str(name).lower(): table for name, table in data.items()}
        columns = {str(name): list(values) for name, values in data.items() if _is_many(values)}
        if not data or len(columns) < len(data) or len({len(values) for values in columns.values()}) > 1:
            raise DataError(
                f"data: found a dict with the keys {', '.join(map(str, data)) or 'none'}. Expected {EXPECTED}."
            )
        names = list(columns)
        return {"data": [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]}
    return {"data": data}


def _is_many(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)


def _rows(table: Any) -> Iterator[Any]:
    """The rows of whatever has rows."""
    if hasattr(table, "iter_rows"):  # polars
        yield from table.iter_rows(named=True)
    elif hasattr(table, "to_pylist"):  # pyarrow
        yield from table.to_pylist()
    elif hasattr(table, "collect_schema"):  # polars, not collected
        yield from _rows(table.collect())
    elif hasattr(table, "iloc") and hasattr(table, "columns"):  # pandas
        for begin in range(0, len(table), _BATCH_ROWS):
            yield from table.iloc[begin : begin + _BATCH_ROWS].to_dict("records")
    elif _is_many(table):  # datasets.Dataset, a column of a frame, a list, a generator
        yield from table
    else:
        raise DataError(f"data: found {type(table).__name__}. Expected {EXPECTED}.")


def _line(row: Any, where: str) -> bytes:
    if not isinstance(row, str | Mapping) and not _is_turns(row):
        raise DataError(f"{where}: found {type(row).__name__}. Expected a text, a dict of columns or a list of turns.")
    value = row if isinstance(row, str) else _plain(row, where)
    return json.dumps(value, ensure_ascii=True).encode() + b"\n"


def _is_turns(row: Any) -> bool:
    return isinstance(row, Sequence) and bool(row) and all(isinstance(turn, Mapping) for turn in row)


def _plain(value: Any, where: str) -> Any:
    """As JSON holds it: numbers of numpy as numbers, what is missing as null, dates as text."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item, where) for key, item in value.items()}
    if isinstance(value, bytes):
        raise DataError(f"{where}: found bytes. Expected text: decode them first.")
    if hasattr(value, "tolist"):  # numpy
        return _plain(value.tolist(), where)
    if isinstance(value, Iterable):
        return [_plain(item, where) for item in value]
    text = value.isoformat() if hasattr(value, "isoformat") else str(value)
    return None if text in ("NaT", "<NA>") else text
