"""Data sets of the Hugging Face hub, and directories that `datasets` saved. `datasets` is imported only here.

Rows are called by their place in the split, from 1. Audio and images are not decoded.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tunesmith.data.read.table import About, Rows, Table
from tunesmith.data.split.assign import EVAL, NAMES, TEST, TRAIN
from tunesmith.errors import DataError, Stopped
from tunesmith.redact import redact

PREFIX = "hub:"
BATCH_ROWS = 1024
_NAME = re.compile(r"(?P<name>[\w.-]+(?:/[\w.-]+)?)(?:/(?P<config>[\w.-]+))?(?::(?P<split>[\w.-]+))?")


def is_saved(folder: Path) -> bool:
    """Whether `datasets` wrote this directory with save_to_disk."""
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    )


@dataclass(frozen=True)
class Loaded:
    """One split of a data set. side: TRAIN, EVAL or TEST by its name, or -1 where it is just rows."""

    name: str
    dataset: Any
    side: int = -1
    notes: tuple[str, ...] = ()


def load_hub(path: str, columns: str, *, by_name: bool = True) -> list[Loaded]:
    """The splits of `hub:owner/name[/config][:split]`. columns: those the recipe names, for messages.

    by_name: several splits keep their sides where their names say them; else only train is read.

    Raises DataError when the name is not one, the data set or split does not exist, or the hub cannot be reached.
    """
    match = _NAME.fullmatch(path.removeprefix(PREFIX))
    if match is None:
        raise DataError(f"data.path: {path!r}. Expected hub:owner/name or hub:owner/name:split.")
    name, config, split = match["name"], match["config"], match["split"]
    try:
        import datasets

        loaded = datasets.load_dataset(name, config, split=split)
    except Stopped:
        raise
    except Exception as error:  # ten kinds of exception say that there is no connection
        raise _explain(path, name, split, columns, error) from None
    prefix = f"{PREFIX}{name}" + (f"/{config}" if config else "")
    return _splits(f"{PREFIX}{name}" + (f":{split}" if split else ""), loaded, f"{prefix}:", by_name=by_name)


def load_saved(path: str, *, by_name: bool = True) -> list[Loaded]:
    """The splits of a directory that save_to_disk wrote, as `load_hub`. Raises DataError when it is damaged."""
    try:
        import datasets

        loaded = datasets.load_from_disk(path)
    except Stopped:
        raise
    except Exception as error:
        raise DataError(
            f"{path}: was saved by `datasets`, but cannot be read ({_first_line(error)}). Copy the directory again, "
            "or save it again with save_to_disk."
        ) from None
    return _splits(path, loaded, f"{path}/", by_name=by_name)


def _splits(name: str, loaded: Any, prefix: str, *, by_name: bool) -> list[Loaded]:
    if not isinstance(loaded, dict):
        return [Loaded(name, loaded)]
    sides = {split: NAMES[split.lower()] for split in loaded if split.lower() in NAMES} if by_name else {}
    if TRAIN not in sides.values() or len(set(sides.values())) == 1:
        return [_one_split(name, loaded, prefix)]
    others = [split for split in loaded if split not in sides]
    unread = f" {', '.join(others)} too exists and is not read." if others else ""
    said = ", ".join(f"{split} {_SAID[side]}" for split, side in sides.items())
    unused = " data.eval_fraction is not used." if EVAL in sides.values() else ""
    note = f"{name}: its splits are read as such: {said}.{unused}{unread}"
    return [Loaded(f"{prefix}{split}", loaded[split], side, (note,)) for split, side in sides.items()]


_SAID = {TRAIN: "to train on", EVAL: "held out", TEST: "for test"}


def _one_split(name: str, loaded: Any, prefix: str) -> Loaded:
    splits = list(loaded)
    chosen = "train" if "train" in splits else splits[0] if len(splits) == 1 else None
    if chosen is None:
        raise DataError(f"{name}: has the splits {', '.join(splits)} and no train. Set data.path: {prefix}{splits[0]}.")
    others = [split for split in splits if split != chosen]
    notes = []
    if others:
        notes.append(
            f"{name}: split {chosen} is read; {', '.join(others)} too exists (data.eval_path: {prefix}{others[0]})"
        )
    return Loaded(name, loaded[chosen], notes=tuple(notes))


def _explain(path: str, name: str, split: str | None, columns: str, error: Exception) -> DataError:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    reason = _first_line(error)
    if isinstance(error, ValueError) and split is not None and "split" in reason.lower():
        return DataError(f"{path}: there is no split {split!r} ({reason}).")
    if isinstance(error, ValueError) and "config" in reason.lower():
        return DataError(f"{path}: several configurations ({reason}). Set data.path: {PREFIX}{name}/CONFIG.")
    local = (
        "Where there is a connection, download its csv, jsonl or parquet file from "
        f"https://huggingface.co/datasets/{name} and set data.path: {name.rsplit('/', 1)[-1]}.csv; any local file "
        f"with {columns} will do."
    )
    if "DatasetNotFoundError" in kinds and "offline" not in reason.lower():
        return DataError(
            f"{path}: the hub has no such data set, or it is private or gated ({reason}). Check the name, or log in "
            f"with `hf auth login`. {local}"
        )
    return DataError(f"{path}: the data set cannot be loaded from the hub ({reason}). {local}")


def _first_line(error: Exception) -> str:
    lines = redact(str(error)).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")[:200]


def open_dataset(name: str, dataset: Any, notes: list[str]) -> Table:
    """The rows of a `datasets.Dataset`. Raises DataError when it has none."""
    if len(dataset) == 0:
        raise DataError(f"{name}: holds no rows. Expected at least two rows of text.")
    table = Table(
        name=name,
        kind="datasets",
        columns=tuple(dataset.column_names),
        read=partial(_rows, dataset),
        about=About("utf-8", notes=notes),
    )
    table.take_sample()
    return table


def _rows(dataset: Any, columns: Collection[str] | None) -> Rows:
    if columns is not None:
        dataset = dataset.select_columns(list(columns))
    row = 0
    for batch in dataset.with_format("arrow").iter(batch_size=BATCH_ROWS):
        for values in batch.to_pylist():
            yield row, values
            row += 1
