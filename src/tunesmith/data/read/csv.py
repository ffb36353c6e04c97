"""CSV and TSV: delimiter and quoting found from the file, every broken row named.

Rows are called by the number that a spreadsheet shows: the header is row 1.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Sequence
from itertools import islice

from tunesmith.data.read.bytes import BadBytes, InputFile, TextLines, find_encoding
from tunesmith.data.read.sniff_csv import (
    NAMES,
    Dialect,
    first_records,
    header_doubt,
    num_columns,
    sniff_delimiter,
    sniff_quoting,
)
from tunesmith.data.read.table import About, BadRow, Rows, Table
from tunesmith.errors import DataError

MAX_FIELD_BYTES = 1 << 26
_SNIFFED_LINES = 500
_SEPARATOR_LINE = re.compile(r"""(["']?)sep=([^\r\n])\1\s*""", re.IGNORECASE)
"""What Excel writes above the header to say the delimiter."""
_WORDS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|"}


def open_csv(file: InputFile, delimiter: str, kind: str, named: Collection[str] = ()) -> Table:
    """The table in `file`. delimiter: one character, a name such as tab, or auto. named: columns that are asked for.

    Raises DataError when the file is empty, binary, or has no header that fits its rows.
    """
    head = file.head()
    encoding = find_encoding(file, head)
    lines = list(islice(TextLines(file, encoding), _SNIFFED_LINES))
    if not any(line.strip() for line in lines):
        raise DataError(f"{file.name}: holds only empty lines. Expected a header and rows.")
    separator = _SEPARATOR_LINE.fullmatch(lines[0])
    skip = 0 if separator is None else 1
    chosen = _choose_delimiter(file, delimiter, lines, separator[2] if separator is not None else None, kind)
    dialect = sniff_quoting(lines[skip:], chosen, whole=len(lines) < _SNIFFED_LINES)
    reader = _Reader(file, encoding, dialect, skip)
    records = first_records(lines[skip:], dialect)
    return Table(
        name=file.name,
        kind=kind,
        columns=tuple(reader.header),
        read=lambda columns: _Reader(file, encoding, dialect, skip).rows(columns),
        first_row=reader.first_row,
        about=About(
            encoding,
            chosen,
            _notes(file, dialect, encoding, said=delimiter != "auto" or chosen == _usual(kind))
            + _changes(file, reader.renamed, records),
            _doubts(file, reader.header, records, named),
        ),
    )


def _doubts(file: InputFile, header: Sequence[str], records: list[list[str]], named: Collection[str]) -> list[str]:
    """Whether the first row may be data and no header. Raises DataError when none of the columns asked for is in it."""
    doubt = "" if any(name in header for name in named) else header_doubt(records)
    if not doubt:
        return []
    longest = max(range(len(header)), key=lambda place: sum(len(row[place]) for row in records if place < len(row)))
    names = ",".join("text" if place == longest else f"column_{place + 1}" for place in range(len(header)))
    way_on = f"write a line with the columns' names above it, such as {_short(names)!r}"
    if named:
        raise DataError(
            f"{file.name}:1: has no header that names {', '.join(named)}: its first row looks like data ({doubt}). "
            f"{way_on[0].upper()}{way_on[1:]}."
        )
    return [f"{file.name}: the first row is read as the header, and looks like data ({doubt}); if it is, {way_on}"]


def _changes(file: InputFile, renamed: Sequence[str], records: list[list[str]]) -> list[str]:
    """What is not taken as it is written."""
    changes = []
    if renamed:
        changes.append(f"{file.name}: columns with equal names are called {', '.join(renamed)}")
    if any("\r\n" in field for record in records for field in record):
        changes.append(f"{file.name}: Windows line ends inside quoted fields are read as \\n")
    return changes


def _notes(file: InputFile, dialect: Dialect, encoding: str, *, said: bool) -> list[str]:
    notes = []
    if not said:
        notes.append(f"{file.name}: columns are separated by {dialect.delimiter_name}")
    if dialect.habit:
        notes.append(f"{file.name}: {dialect.habit}")
    if file.encoding == "auto" and encoding != "utf-8":
        notes.append(f"{file.name}: read as {encoding}, as its byte order mark says")
    return notes


def _usual(kind: str) -> str:
    return "\t" if kind == "tsv" else ","


def _choose_delimiter(file: InputFile, asked: str, lines: Sequence[str], said: str | None, kind: str) -> str:
    """said: by a line above the header."""
    skip = 0 if said is None else 1
    if asked != "auto":
        asked = _WORDS.get(asked.lower(), asked)
        if len(asked) != 1 or asked in '"\r\n':
            raise DataError(f"data.delimiter: found {asked!r}. Expected one character, tab, or auto.")
    elif said is not None:
        return said
    found = sniff_delimiter(lines[skip:], _usual(kind))
    if asked == "auto":
        return found
    if found != asked and num_columns(lines[skip:], asked) == 1 and num_columns(lines[skip:], found) > 1:
        header = lines[skip].strip()
        raise DataError(
            f"{file.name}:{1 + skip}: the header {_short(header)!r} is one column when split at "
            f"{Dialect(asked).delimiter_name}; it looks like {NAMES[found]}. Set data.delimiter: "
            f"{'tab' if found == chr(9) else repr(found)}, or leave it auto."
        )
    return asked


class _Reader:
    """One pass over a file. header: its column names, made unique; renamed: those that were made so."""

    def __init__(self, file: InputFile, encoding: str, dialect: Dialect, skip: int) -> None:
        self.file = file
        self.lines = TextLines(file, encoding)
        self.dialect = dialect
        self.first_row = 1 + skip
        csv.field_size_limit(MAX_FIELD_BYTES)
        source = islice(iter(self.lines), skip, None)
        self.records = dialect.records(source)
        self.renamed: list[str] = []
        self.header = self._read_header()

    def _read_header(self) -> list[str]:
        fields: list[str] = []
        try:
            while not any(field.strip() for field in fields):
                fields = next(self.records)
                self.first_row += 1
        except csv.Error as error:
            where = f"{self.file.name}:{self.first_row}"
            raise DataError(f"{where}: the header cannot be read ({error}). Check its quotes.") from None
        bad = self.lines.take_bad()
        if bad is not None:
            raise DataError(f"{self.file.name}:{self.first_row - 1}: in the header, {bad.explain()}.")
        return self._made_unique([field.strip() or f"column_{place}" for place, field in enumerate(fields, start=1)])

    def _made_unique(self, written: list[str]) -> list[str]:
        """text, text, text -> text, text.2, text.3; a name that is written in the header is never taken for another."""
        names: list[str] = []
        for name in written:
            unique, number = name, 1
            while unique in names or (number > 1 and unique in written):
                number += 1
                unique = f"{name}.{number}"
            names.append(unique)
            if number > 1:
                self.renamed.append(unique)
        return names

    def rows(self, columns: Collection[str] | None) -> Rows:
        places = [(name, i) for i, name in enumerate(self.header) if columns is None or name in columns]
        width = len(self.header)
        row = -1
        while True:
            started = self.lines.number + 1
            try:
                fields = next(self.records)
            except StopIteration:
                return
            except csv.Error as error:
                row += 1
                yield row, self._broken(row, started, error)
                continue
            row += 1
            if not fields and self.lines.bad is None:
                continue
            bad = self.lines.bad
            if bad is not None or len(fields) != width:
                problem = self._problem(row, started, fields, self.lines.take_bad())
                if problem is not None:
                    yield row, problem
                    continue
            yield row, {name: fields[i].replace("\r\n", "\n") for name, i in places}

    def _problem(self, row: int, started: int, fields: list[str], bad: BadBytes | None) -> BadRow | None:
        where = self._line(row, started)
        if bad is not None:
            return BadRow(f"{where}{bad.explain()}.")
        width = len(self.header)
        if len(fields) > width and not any(field.strip() for field in fields[width:]):
            return None
        hint = (
            f"put text that holds {self.dialect.delimiter_name} in double quotes"
            if len(fields) > width
            else "check for a line break outside quotes, or a file that was cut short"
        )
        return BadRow(
            f"{where}{len(fields)} field{'s' * (len(fields) != 1)}, where the header has {width} "
            f"({_short(', '.join(self.header))}); {hint}."
        )

    def _broken(self, row: int, started: int, error: csv.Error) -> BadRow:
        self.lines.take_bad()
        message = str(error)
        where = self._line(row, started)
        if "unexpected end of data" in message:
            return BadRow(f"{where}a double quote opens here and is never closed. Close it, or double it inside text.")
        if "expected after" in message:
            return BadRow(
                f"{where}text goes on after a closing double quote (line {self.lines.number}). Inside quoted text, "
                'write "" for '
                "a double quote; an unclosed quote in a row before has the same effect."
            )
        if "field larger" in message:
            return BadRow(
                f"{where}a field is larger than {MAX_FIELD_BYTES >> 20} MiB; a double quote may never be closed."
            )
        return BadRow(f"{where}not valid CSV ({message}).")

    def _line(self, row: int, started: int) -> str:
        name = f"data row {row + 1}"
        return f"{name}: " if started == row + self.first_row else f"{name}, line {started}: "


def _short(text: str, length: int = 80) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."
