"""The delimiter and the quoting of a CSV file, found from its first lines.

Quoting is what RFC 4180 says unless the first lines break it and another habit explains all of them: spaces after the
delimiter, a backslash before a quote, or no quoting at all (as in most TSV files).
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

DELIMITERS = (",", ";", "\t", "|")
NAMES = {",": "','", ";": "';'", "\t": "tab", "|": "'|'"}
_HABITS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("", {}),
    ("spaces after the delimiter are left out", {"skipinitialspace": True}),
    ("a backslash stands before quotes inside text", {"doublequote": False, "escapechar": "\\"}),
    ("double quotes are part of the text", {"quoting": csv.QUOTE_NONE}),
)


@dataclass(frozen=True)
class Dialect:
    """How the fields of a line are told apart. habit: empty for the usual quoting, else what differs, in words."""

    delimiter: str
    habit: str = ""

    def records(self, lines: Iterator[str] | Sequence[str]) -> Any:
        """A csv.reader that refuses broken quoting."""
        return csv.reader(lines, delimiter=self.delimiter, strict=True, **dict(_HABITS)[self.habit])

    @property
    def delimiter_name(self) -> str:
        return NAMES.get(self.delimiter, repr(self.delimiter))


def sniff_delimiter(lines: Sequence[str], usual: str) -> str:
    """The delimiter that gives the header more than one column and most rows as many as the header."""
    scores = {}
    for candidate in (usual, *DELIMITERS):
        records = list(_lenient_records(lines, candidate))
        width = len(records[0]) if records else 0
        if width > 1:
            scores[candidate] = Counter(map(len, records))[width] / len(records)
    best = max(scores, key=lambda candidate: (scores[candidate], candidate == usual), default=usual)
    return best if scores.get(best, 0) > 0.5 else usual


def num_columns(lines: Sequence[str], delimiter: str) -> int:
    """Columns of the header when it is split at `delimiter`."""
    return len(next(_lenient_records(lines, delimiter), []))


def sniff_quoting(lines: Sequence[str], delimiter: str, *, whole: bool) -> Dialect:
    """The first habit that explains every line, or the usual one. whole: the lines are the whole file."""
    has_backslash = any('\\"' in line for line in lines)
    for habit, options in _HABITS:
        if "escapechar" in options and not has_backslash:  # csv checks nothing then
            continue
        dialect = Dialect(delimiter, habit)
        if _explains(dialect, lines, whole=whole):
            return dialect
    return Dialect(delimiter)


def _explains(dialect: Dialect, lines: Sequence[str], *, whole: bool) -> bool:
    records: list[list[str]] = []
    try:
        for record in dialect.records(lines):
            if record:
                records.append(record)
    except csv.Error as error:
        if whole or "unexpected end of data" not in str(error):
            return False
    if not records or any(len(record) != len(records[0]) for record in records):
        return False
    keeps_quotes = dialect.habit == _HABITS[-1][0]
    return not (keeps_quotes and any(_is_quoted(field) for record in records for field in record))


def _is_quoted(field: str) -> bool:
    field = field.strip()
    return len(field) > 1 and field.startswith('"') and field.endswith('"')


def _lenient_records(lines: Sequence[str], delimiter: str) -> Iterator[list[str]]:
    try:
        yield from (record for record in csv.reader(lines, delimiter=delimiter) if record)
    except csv.Error:
        return


def first_records(lines: Sequence[str], dialect: Dialect) -> list[list[str]]:
    """The records of a file's first lines, up to the first that is broken."""
    records: list[list[str]] = []
    with suppress(csv.Error):
        records.extend(record for record in dialect.records(lines) if record)
    return records


def header_doubt(records: list[list[str]]) -> str:
    """Why the first record looks like a row of data, or empty where it looks like a header.

    A name is short and appears nowhere below itself; a number, a sentence or a category's value does not name a column.
    """
    if not records:
        return ""
    header, rows = records[0], [row for row in records[1:] if len(row) == len(records[0]) and row != records[0]]
    if not rows:
        return ""
    for place, field in enumerate(header):
        name, below = field.strip(), [row[place].strip() for row in rows]
        shown = name if len(name) <= 40 else f"{name[:37]}..."
        if not name:
            continue
        if _is_number(name) and all(_is_number(value) for value in below if value):
            return f"{shown!r} is a number like those below it"
        if name in below:
            return f"{shown!r} stands below itself too"
        words, usual = len(name.split()), sorted(len(value.split()) for value in below)[len(below) // 2]
        ends = name.endswith((".", "!", '"'))
        if words >= (4 if ends else 8) and not name.endswith("?") and usual >= words // 2:
            return f"{shown!r} is a text like those below it"
    return ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
