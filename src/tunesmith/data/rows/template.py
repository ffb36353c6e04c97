"""Templates over columns: `{title} ({release_year}): {description}`.

A name in braces is the name of a column and nothing else: no attributes, no indices, no conversions, no widths. `{{`
and `}}` are braces.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith.data.read.table import list_columns
from tunesmith.errors import DataError

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class RowProblem(Exception):
    """A row that cannot be rendered: cause and fix, without the place."""


@dataclass(frozen=True)
class Template:
    """Text and columns in turn. parts: (literal text, column or None) pairs."""

    parts: tuple[tuple[str, str | None], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(column for _, column in self.parts if column is not None))

    def render(self, values: Mapping[str, object]) -> str:
        """The text of a row; empty when every column in it is. Raises RowProblem when a column is not text."""
        if len(self.parts) == 1 and not self.parts[0][0] and self.parts[0][1] is not None:
            return column_text(values, self.parts[0][1])
        rendered = {column: column_text(values, column, numbers=True) for column in self.columns}
        if not any(text.strip() for text in rendered.values()):
            return ""
        return "".join(text + (rendered[column] if column is not None else "") for text, column in self.parts)


def parse_template(key: str, source: str, columns: Iterable[str], where: str) -> Template:
    """The template `source` over `columns`, or the one column that it names.

    key: the recipe's key and where: the file, both for messages. Raises DataError when a brace is not closed or a name
    is no column.
    """
    columns = list(columns)
    if source in columns or not set(source) & set("{}"):
        return Template((("", _known(key, source, columns, where)),))
    parts: list[tuple[str, str | None]] = []
    literal, end = "", 0
    for match in _TOKEN.finditer(source):
        literal += source[end : match.start()]
        end = match.end()
        if match[0] in ("{{", "}}"):
            literal += match[0][0]
        elif match[1] is None:
            raise DataError(
                f"{key}: {source!r}: the {match[0]!r} at character {match.start() + 1} has no partner. Write "
                f"{match[0] * 2} for a brace itself."
            )
        else:
            parts.append((literal, _known(key, match[1], columns, where)))
            literal = ""
    if not parts:
        raise DataError(
            f"{key}: {source!r} names no column, so every row would be the same. Columns: {list_columns(columns)}."
        )
    return Template((*parts, (literal + source[end:], None)))


def _known(key: str, name: str, columns: list[str], where: str) -> str:
    if name in columns:
        return name
    if name.strip() in columns:
        return name.strip()
    close = difflib.get_close_matches(name, columns, n=1, cutoff=0.6) or [
        column for column in columns if column.lower() == name.strip().lower()
    ]
    raise DataError(
        f"{where}: no column {name!r} ({key}). "
        + (f"Did you mean {close[0]!r}? " if close else "")
        + f"Columns: {list_columns(columns)}."
    )


def column_text(values: Mapping[str, object], column: str, *, numbers: bool = False) -> str:
    """The text in a column; empty when it is missing or null. Raises RowProblem when it is not text."""
    value = values.get(column)
    if value is None or value != value:  # NaN is how pandas writes a missing text
        return ""
    if isinstance(value, str):
        return value
    if numbers and not isinstance(value, list | dict | bytes):
        return str(value)
    raise RowProblem(
        f"column {column!r} holds {_describe(value)}, expected text. Choose another column"
        + ("." if isinstance(value, list | dict) else f", or write a template: '{{{column}}}: ...'.")
    )


def _describe(value: Any) -> str:
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
        bytes: "bytes",
    }
    what = names.get(type(value), f"a {type(value).__name__}")
    shown = json.dumps(value, default=str, ensure_ascii=False)
    return f"{what} ({shown if len(shown) <= 40 else shown[:37] + '...'})"
