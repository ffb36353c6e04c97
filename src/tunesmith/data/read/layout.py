"""Which files of a folder are splits, and which describe the data: by their names, or by what stands in them.

Splits are told as the hub, mlx-lm and people name them: train.jsonl, valid.jsonl and test.jsonl;
train-00000-of-00002.parquet; shows_train.csv and shows_dev.csv; folders train/ and test/.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from itertools import takewhile
from pathlib import PurePath

from tunesmith.data.read.bytes import InputFile
from tunesmith.data.read.json import holds_rows
from tunesmith.data.split.assign import EVAL, NAMES, TEST, TRAIN
from tunesmith.errors import DataError

UNSPLIT = -1
DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "croissant.json")
"""Files that tools write beside data, whatever stands in them."""
MAX_DESCRIPTION_BYTES = 1 << 20
_SHARD = re.compile(r"-\d{5}-of-\d{5}(-[0-9a-f]+)?")
_FOLDER = ("/",)
ROW_KEYS = ("text", "messages", "conversations", "conversation", "prompt", "completion", "instruction", "output")


def split_sides(names: Sequence[str]) -> list[int]:
    """TRAIN, EVAL or TEST for each file, or UNSPLIT for all.

    Files are splits when one kind of name (or folder) stands for training and for held-out rows alike. Then files that
    are named otherwise are TRAIN.
    """
    read = [_side_and_frame(name) for name in _below_common_folder(names)]
    sides_of: dict[tuple[str, ...], set[int]] = defaultdict(set)
    for side, frame in read:
        sides_of[frame].add(side)
    whole = {frame for frame, sides in sides_of.items() if TRAIN in sides and sides & {EVAL, TEST}}
    if not whole:
        return [UNSPLIT] * len(names)
    return [side if frame in whole and side != UNSPLIT else TRAIN for side, frame in read]


def _below_common_folder(names: Sequence[str]) -> list[PurePath]:
    paths = [PurePath(name) for name in names]
    common = len(
        list(takewhile(lambda parts: len(set(parts)) == 1, zip(*(path.parts[:-1] for path in paths), strict=False)))
    )
    return [PurePath(*path.parts[common:]) for path in paths]


def _side_and_frame(name: PurePath) -> tuple[int, tuple[str, ...]]:
    """The split that a file's name or folder says, and the rest of the name: equal rests belong together."""
    for folder in name.parts[:-1]:
        if folder.lower() in NAMES:
            return NAMES[folder.lower()], _FOLDER
    stem = _SHARD.sub("", name.name.lower())
    words = [word.rstrip("0123456789") for word in re.split(r"[-_. ]+", stem)]
    marks = [word for word in words if word in NAMES]
    if len(marks) != 1:
        return UNSPLIT, ()
    return NAMES[marks[0]], tuple(word for word in words if word and word not in NAMES and not _is_ending(word))


def _is_ending(word: str) -> bool:
    return word in ("csv", "tsv", "json", "jsonl", "ndjson", "parquet", "txt", "text", "gz", "zst", "bz", "xz", "zip")


def say_splits(names: Sequence[str], sides: Sequence[int]) -> str:
    """`train.jsonl to train on, valid.jsonl held out, test.jsonl for test`."""
    said = []
    shown = [str(name) for name in _below_common_folder(names)]
    for side, what in ((TRAIN, "to train on"), (EVAL, "held out"), (TEST, "for test")):
        mine = [name for name, own in zip(shown, sides, strict=True) if own == side]
        if mine:
            more = f" and {len(mine) - 2} more" if len(mine) > 2 else ""
            said.append(f"{', '.join(mine[:2])}{more} {what}")
    return ", ".join(said)


def without_descriptions(files: Sequence[InputFile], columns: Collection[str]) -> tuple[list[InputFile], list[str]]:
    """The files that hold rows, and the names of those that only describe them.

    columns: those that the recipe names. A .json file of one object that has none of them, nor one that is recognised,
    describes the data when files of rows lie beside it.
    """
    about = {file for file in files if PurePath(file.name).name.lower() in DESCRIPTIONS}
    rows = [file for file in files if file not in about]
    small = {file for file in rows if file.name.lower().endswith(".json") and _is_description(file, columns)}
    if len(small) < len(rows):
        about |= small
    return [file for file in files if file not in about], [file.name for file in files if file in about]


def _is_description(file: InputFile, columns: Collection[str]) -> bool:
    try:
        with file.open() as stream:
            content = stream.read(MAX_DESCRIPTION_BYTES + 1)
        value = json.loads(content) if len(content) <= MAX_DESCRIPTION_BYTES else None
    except (DataError, OSError, EOFError, ValueError, RecursionError):
        return False  # the reader says what is wrong
    if not isinstance(value, dict) or holds_rows(value):
        return False
    return not value.keys() & {*columns, *ROW_KEYS}
