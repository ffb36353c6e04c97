"""Which names are splits, and which are only names."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tunesmith.data import Data
from tunesmith.data.read.layout import UNSPLIT, split_sides
from tunesmith.data.split.assign import EVAL, TEST, TRAIN

LAYOUTS = {
    "mlx-lm": {"d/train.jsonl": TRAIN, "d/valid.jsonl": EVAL, "d/test.jsonl": TEST},
    "hub": {
        "d/data/train-00000-of-00002.parquet": TRAIN,
        "d/data/train-00001-of-00002-0a1b2c3d.parquet": TRAIN,
        "d/data/validation-00000-of-00001.parquet": EVAL,
        "d/data/test-00000-of-00001.parquet": TEST,
    },
    "folders": {"d/train/a.txt": TRAIN, "d/train/test.txt": TRAIN, "d/Test/a.txt": TEST, "d/dev/b/c.txt": EVAL},
    "suffix": {"shows_train.csv": TRAIN, "shows_dev.csv": EVAL, "notes.csv": TRAIN},
    "prefix": {"train_data.csv.gz": TRAIN, "eval_data.csv.gz": EVAL},
    "numbered": {"train.1.jsonl": TRAIN, "train2.jsonl": TRAIN, "val.jsonl": EVAL},
    "configurations": {"d/en/train.csv": TRAIN, "d/en/test.csv": TEST, "d/de/train.csv": TRAIN},
}
NO_LAYOUTS = {
    "only training": ["d/train.jsonl", "d/more.jsonl"],
    "only test": ["d/test.jsonl", "d/other.jsonl"],
    "a folder above": ["d/test/a.jsonl", "d/test/b.jsonl"],
    "words": ["a_hard_test.txt", "the_last_train.txt", "a_fine_evening.txt"],
    "nothing": ["a.csv"],
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_names_that_are_splits(layout: dict[str, int]) -> None:
    assert dict(zip(layout, split_sides(list(layout)), strict=True)) == layout


@pytest.mark.parametrize("names", NO_LAYOUTS.values(), ids=NO_LAYOUTS)
def test_names_that_are_none(names: list[str]) -> None:
    assert split_sides(names) == [UNSPLIT] * len(names)


def test_splits_in_an_archive_and_by_a_glob(prepared: Callable[..., Data], tmp_path: Path, texts: list[str]) -> None:
    parts = {"train.txt": texts[:20], "dev.txt": texts[20:24]}
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, part in parts.items():
            archive.writestr(f"set/{name}", "\n".join(part))
            (tmp_path / name).write_text("\n".join(part))
    for path in (tmp_path / "a.zip", tmp_path / "*.txt"):
        data = prepared(str(path))
        assert (len(data.train), len(data.eval)) == (20, 4)
