"""What the rows of somebody's data are: the keys that a recipe needs for them, why, and what else could be meant."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tunesmith.audit.text import holds_private
from tunesmith.data.read.files import find_files
from tunesmith.data.read.hub import is_saved
from tunesmith.data.read.inputs import STDIN, find_inputs, is_elsewhere, open_table
from tunesmith.data.read.table import Table, list_columns
from tunesmith.data.rows.chat import ChatTemplate
from tunesmith.data.rows.spec import RowSpec, choose_rows, text_columns
from tunesmith.errors import DataError
from tunesmith.recipe import DataSection

PROMPTS = 2
MAX_SLICES = 12
"""Different values of a column that is offered as data.slice."""
_MIN_REPEATS = 3
_PROMPT_WORDS = 4
_PROMPT_CHARACTERS = 200


@dataclass(frozen=True)
class Looked:
    """One data source as a recipe names it."""

    path: str
    kind: str
    """text, template, prompt or chat."""
    keys: tuple[tuple[str, str], ...]
    """The data keys to set, with their columns; none where tunesmith recognises the rows by itself."""
    how: str
    """What was chosen and why, in a line."""
    found: str
    """`shows.csv: csv, columns title, description`."""
    others: tuple[str, ...]
    """Other columns that hold text."""
    slice: str | None
    """A column with a few values, each many times."""
    prompts: tuple[str, ...]
    """Openings that base and tuned model can be asked to go on with."""


def open_first(path: str) -> tuple[Table, int]:
    """The first table of `path`, with a sample of its rows, and how many there are.

    Raises DataError when there is none, or it cannot be opened.
    """
    section = DataSection(path=path)
    if path == STDIN:
        raise DataError("init: standard input is gone when it was read. Save it as a file: cat ... > rows.jsonl")
    if Path(path).suffix.lower() in (".yaml", ".yml") and Path(path).is_file():
        raise DataError(
            f"{path}: is YAML, not data. If it is a recipe: tunesmith train {path}. If it is another tool's "
            f"configuration: tunesmith init --from {path}"
        )
    place = Path(path).expanduser()
    if is_elsewhere(path) or (place.is_dir() and is_saved(place)):
        inputs = find_inputs(path, section)
        table = inputs[0].open()
        if not table.sample:
            table.take_sample()
        return table, len(inputs)
    files = find_files(path, section).files
    return open_table(files[0], section), len(files)


def look(path: str, table: Table, num_files: int, chat: ChatTemplate) -> Looked:
    """Choose what the rows are. Raises DataError when no column holds text."""
    texts = text_columns(table)
    section = DataSection(path=path)
    try:
        spec = choose_rows(section, table, chat)
        how = spec.how
    except DataError:
        if table.plain_text or not texts:
            raise
        section = DataSection(path=path, text=texts[0])
        spec = choose_rows(section, table, chat)
        how = f"text in column {texts[0]!r}, which holds more of it than {list_columns(texts[1:], 6)}"
    more = f" and {num_files - 1} more file{'s' * (num_files > 2)}" if num_files > 1 else ""
    columns = "" if table.plain_text else f", columns {list_columns(table.columns, 12)}"
    return Looked(
        path=path,
        kind=spec.kind,
        keys=_keys(spec),
        how=how,
        found=f"{table.name}{more}: {table.kind}{columns}",
        others=tuple(name for name in texts if name not in spec.columns),
        slice=None if table.plain_text else _category(table, spec),
        prompts=_prompts(table, spec),
    )


def _keys(spec: RowSpec) -> tuple[tuple[str, str], ...]:
    """As a recipe names the columns; Alpaca's are recognised alone."""
    if spec.kind == "prompt":
        return (("prompt", spec.columns[0]), ("completion", spec.columns[1]))
    if spec.kind == "chat":
        return () if spec.columns[0] == "instruction" else (("messages", spec.columns[0]),)
    return (("text", spec.columns[0]),) if spec.columns else ()


def _category(table: Table, spec: RowSpec) -> str | None:
    """The column with fewest values, where there are at least two and each stands for several rows."""
    found: list[tuple[int, str]] = []
    for name in table.columns:
        values = [str(values.get(name)) for values in table.sample if values.get(name) not in (None, "")]
        distinct = set(values)
        if name in spec.columns or not 2 <= len(distinct) <= MAX_SLICES or any(len(value) > 40 for value in distinct):
            continue
        if len(values) >= _MIN_REPEATS * len(distinct):
            found.append((len(distinct), name))
    return min(found)[1] if found else None


def _prompts(table: Table, spec: RowSpec) -> tuple[str, ...]:
    """Openings of a few rows, the user's words where somebody asks; nothing private."""
    found: dict[str, None] = {}
    for values in table.sample:
        for text in _openings(values, spec):
            if text and not holds_private(text):
                found[text] = None
        if len(found) >= PROMPTS:
            break
    return tuple(found)[:PROMPTS]


def _openings(values: Mapping[str, object], spec: RowSpec) -> Iterator[str]:
    if spec.kind == "chat":
        asked = values.get(spec.columns[0])
        if isinstance(asked, list):
            asked = next((_said(turn) for turn in asked if _is_user(turn)), None)
        if isinstance(asked, str) and not asked.lstrip().startswith("["):
            yield asked[:_PROMPT_CHARACTERS].strip()
        return
    value = values.get(spec.columns[0]) if spec.columns else None
    if not isinstance(value, str):
        return
    if spec.kind == "prompt":
        yield value[:_PROMPT_CHARACTERS]
    elif words := re.split(r"\s+", value.strip())[:_PROMPT_WORDS]:
        yield " ".join(words)[:_PROMPT_CHARACTERS]


def _is_user(turn: object) -> bool:
    return isinstance(turn, dict) and (turn.get("role") or turn.get("from")) in ("user", "human")


def _said(turn: object) -> object:
    return (turn.get("content") or turn.get("value")) if isinstance(turn, dict) else None
