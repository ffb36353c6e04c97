"""CSV and TSV: delimiter and quoting found from the file, every broken row named.

Rows are called by the number that a spreadsheet shows: the header is row 1.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import islice

from tunesmith.data.read_bytes import BadBytes, InputFile, TextLines, find_encoding
from tunesmith.data.table import BadRow, Rows, Table
from tunesmith.errors import DataError

DELIMITERS = (",", ";", "\t", "|")
MAX_FIELD_BYTES = 1 << 26
_NAMES = {",": "','", ";": "';'", "\t": "tab", "|": "'|'"}
_WORDS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|"}


def open_csv(file: InputFile, delimiter: str, kind: str) -> Table:
    """The table in `file`. delimiter: one character, a name such as tab, or auto.

    Raises DataError when the file is empty, binary, or has no header that fits its rows.
    """
    head = file.head()
    encoding = find_encoding(file, head)
    lines = list(islice(TextLines(file, encoding), 500))
    if not any(line.strip() for line in lines):
        raise DataError(f"{file.name}: holds only empty lines. Expected a header and rows.")
    skip = 1 if lines[0].lower().startswith("sep=") and len(lines[0].strip()) == 5 else 0
    chosen = _choose_delimiter(file, delimiter, lines, skip, kind)
    reader = _Reader(file, encoding, chosen, skip)
    table = Table(
        name=file.name,
        kind=kind,
        columns=tuple(reader.header),
        read=lambda columns: _Reader(file, encoding, chosen, skip).rows(columns),
        first_row=reader.first_row,
        about={"encoding": encoding, "delimiter": chosen, "notes": []},
    )
    _note(table, file, delimiter, chosen, encoding, kind)
    return table


def _note(table: Table, file: InputFile, asked: str, chosen: str, encoding: str, kind: str) -> None:
    usual = "\t" if kind == "tsv" else ","
    if asked == "auto" and chosen != usual:
        table.about["notes"].append(f"{file.name}: columns are separated by {_NAMES.get(chosen, repr(chosen))}")
    if file.encoding == "auto" and encoding != "utf-8":
        table.about["notes"].append(f"{file.name}: read as {encoding}, as its byte order mark says")


def _choose_delimiter(file: InputFile, asked: str, lines: Sequence[str], skip: int, kind: str) -> str:
    if asked != "auto":
        asked = _WORDS.get(asked.lower(), asked)
        if len(asked) != 1 or asked in '"\r\n':
            raise DataError(f"data.delimiter: found {asked!r}. Expected one character, tab, or auto.")
    elif skip:
        return lines[0].strip()[4]
    usual = "\t" if kind == "tsv" else ","
    found = _sniff(lines[skip:], usual)
    if asked == "auto":
        return found
    if found != asked and _num_columns(lines[skip:], asked) == 1 and _num_columns(lines[skip:], found) > 1:
        header = lines[skip].strip()
        raise DataError(
            f"{file.name}:{1 + skip}: the header {_short(header)!r} is one column when split at "
            f"{_NAMES.get(asked, repr(asked))}; it looks like {_NAMES[found]}. Set data.delimiter: "
            f"{'tab' if found == chr(9) else repr(found)}, or leave it auto."
        )
    return asked


def _sniff(lines: Sequence[str], usual: str) -> str:
    """The delimiter that gives the header more than one column and most rows as many as the header."""
    scores = {}
    for candidate in (usual, *DELIMITERS):
        counts = Counter(len(fields) for fields in _parse(lines, candidate) if fields)
        width = _num_columns(lines, candidate)
        if width > 1:
            scores[candidate] = counts[width] / max(1, counts.total())
    best = max(scores, key=lambda candidate: (scores[candidate], candidate == usual), default=usual)
    return best if scores.get(best, 0) > 0.5 else usual


def _num_columns(lines: Sequence[str], delimiter: str) -> int:
    return len(next(iter(_parse(lines, delimiter)), []))


def _parse(lines: Sequence[str], delimiter: str) -> Iterator[list[str]]:
    try:
        yield from csv.reader(lines, delimiter=delimiter)
    except csv.Error:
        return


class _Reader:
    """One pass over a file. header: its column names, made unique."""

    def __init__(self, file: InputFile, encoding: str, delimiter: str, skip: int) -> None:
        self.file = file
        self.lines = TextLines(file, encoding)
        self.delimiter = delimiter
        self.first_row = 1 + skip
        csv.field_size_limit(MAX_FIELD_BYTES)
        source = islice(iter(self.lines), skip, None)
        self.records = csv.reader(source, delimiter=delimiter, strict=True)
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
        names: list[str] = []
        for position, field in enumerate(fields, start=1):
            name = field.strip() or f"column_{position}"
            names.append(name if name not in names else f"{name}.{names.count(name) + 1}")
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
            yield row, {name: fields[i] for name, i in places}

    def _problem(self, row: int, started: int, fields: list[str], bad: BadBytes | None) -> BadRow | None:
        where = self._line(row, started)
        if bad is not None:
            return BadRow(f"{where}{bad.explain()}.")
        width = len(self.header)
        if len(fields) > width and not any(field.strip() for field in fields[width:]):
            return None
        hint = (
            f"put text that holds {_NAMES.get(self.delimiter, repr(self.delimiter))} in double quotes"
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
