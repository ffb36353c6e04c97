"""Columns that a recipe names, checked against the files' headers before anything slow begins."""

from __future__ import annotations

from pathlib import Path

from tunesmith.data.read import given
from tunesmith.data.read.files import find_files
from tunesmith.data.read.hub import is_saved
from tunesmith.data.read.inputs import STDIN, is_elsewhere, named, open_table
from tunesmith.data.read.table import Table, list_columns
from tunesmith.data.rows.spec import check_recognised
from tunesmith.data.rows.template import parse_template
from tunesmith.errors import DataError
from tunesmith.recipe import DataSection

_TEXT_KEYS = ("text", "prompt", "completion", "messages")
_SPLIT_KEYS = ("group", "stratify", "split_column")
"""Of the rows that are split; files that are held out as a whole need no such column."""


def check_columns(section: DataSection) -> None:
    """Look at the first file of each local path of the recipe: that it is there, opens, and has the columns named,
    or columns that say by themselves what the rows are.

    Reads a few rows; no torch, no model. What is elsewhere or piped in is left to the reading proper, which checks
    every file. Raises DataError.
    """
    paths = [section.path] if isinstance(section.path, str) else [source.path for source in section.path]
    for path in paths:
        _check(path, section, _SPLIT_KEYS)
    for held_out in (section.eval_path, section.test_path):
        if held_out is not None:
            _check(held_out, section, ())


def _check(path: str, section: DataSection, keys: tuple[str, ...]) -> None:
    if path == STDIN or is_elsewhere(path):
        return
    place = Path(path).expanduser()
    if place.is_dir() and is_saved(place):
        return
    found = given.find(path, section) if path.startswith(given.PREFIX) else find_files(path, section, named(section))
    table = open_table(found.files[0], section)
    if not table.plain_text:
        _check_text(table, section)
    for key in (*keys, "slice"):
        column = getattr(section, key)
        if column is not None and column not in table.columns:
            raise DataError(f"{table.name}: no column {column!r} (data.{key}). Columns: {list_columns(table.columns)}.")


def _check_text(table: Table, section: DataSection) -> None:
    named_keys = {key: source for key in _TEXT_KEYS if (source := getattr(section, key)) is not None}
    for key, source in named_keys.items():
        parse_template(f"data.{key}", source, table.columns, table.name)
    if not named_keys:
        check_recognised(table)
