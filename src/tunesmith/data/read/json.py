"""JSON Lines and JSON: rows are streamed, and a broken one is named by line and column.

Rows of JSON Lines are called by their line; rows of a JSON array by their place in it, from 1.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

from tunesmith.data.read.bytes import InputFile, TextLines, find_encoding
from tunesmith.data.read.table import About, BadRow, Rows, Table
from tunesmith.errors import DataError

_CHUNK_CHARACTERS = 1 << 20
MAX_ROW_CHARACTERS = 1 << 28


def _long_int(digits: str) -> int | str:
    """An integer; the digits themselves where Python reads no integer that long (4,300 digits)."""
    try:
        return int(digits)
    except ValueError:
        return digits


_decoder = json.JSONDecoder()
_patient_decoder = json.JSONDecoder(parse_int=_long_int)
"""Slower; for text with an integer that is too long for the other."""


def parse_json(text: str) -> Any:
    """As json.loads, with integers of any length. Raises json.JSONDecodeError and RecursionError."""
    try:
        return _decoder.decode(text)
    except json.JSONDecodeError:
        raise
    except ValueError:
        return _patient_decoder.decode(text)


def _parse_front(text: str, place: int) -> tuple[Any, int]:
    """The value at `place` and where it ends, as `parse_json`."""
    try:
        return _decoder.raw_decode(text, place)
    except json.JSONDecodeError:
        raise
    except ValueError:
        return _patient_decoder.raw_decode(text, place)


def open_json(file: InputFile, kind: str) -> Table:
    """The table in `file`: one JSON value a line (jsonl), or one array of rows (json); told apart by the content.

    Raises DataError when the file is empty, binary, or is JSON that holds no rows.
    """
    head = file.head()
    encoding = find_encoding(file, head)
    lines = list(islice((line.strip() for line in TextLines(file, encoding) if line.strip()), 2))
    if not lines:
        raise DataError(f"{file.name}: holds only empty lines. Expected JSON rows.")
    if len(lines) == 1 and lines[0].startswith("{"):
        _refuse_columns(file, lines[0])
    by_line = _is_by_line(lines, kind)
    notes = []
    if by_line != (kind == "jsonl"):
        notes.append(f"{file.name}: holds {'a JSON value a line' if by_line else 'one JSON document'}; read so")
    read = _read_lines if by_line else _read_document
    return Table(
        name=file.name,
        kind="jsonl" if by_line else "json",
        columns=(),
        read=lambda _: read(file, encoding),
        about=About(encoding, notes=notes),
    )


def _is_by_line(lines: list[str], kind: str) -> bool:
    """Whether each line is a row, from the first two lines that are not empty."""
    first = lines[0]
    try:
        value = parse_json(first)
    except (ValueError, RecursionError):
        opens_document = first.startswith("[") or (first.startswith("{") and first.endswith(("[", "{", ",", ":")))
        return kind == "jsonl" and not opens_document
    if len(lines) > 1:
        return not first.startswith("[") or lines[1].startswith("[")
    if isinstance(value, dict):
        return kind == "jsonl" or not holds_rows(value)
    return isinstance(value, str)


def holds_rows(value: dict[str, object]) -> bool:
    """Whether an object is a whole data set, {"data": [rows]}, and not one row of chat turns."""
    lists = [item for item in value.values() if isinstance(item, list)]
    return len(lists) == 1 and not any(isinstance(row, dict) and {"role", "from"} & row.keys() for row in lists[0])


def _read_lines(file: InputFile, encoding: str) -> Rows:
    lines = TextLines(file, encoding)
    for row, line in enumerate(lines):
        bad = lines.take_bad()
        if bad is not None:
            yield row, BadRow(f"{bad.explain()}.")
        elif not line.isspace():
            yield row, _parse_line(line)


def _parse_line(line: str) -> dict[str, object] | BadRow:
    try:
        value = parse_json(line.rstrip())
    except json.JSONDecodeError as error:
        near = line[max(0, error.pos - 20) : error.pos + 20].strip()
        return BadRow(
            f"column {error.colno}: broken JSON ({error.msg}), near {near!r}. Expected one JSON object a line; mend "
            "the line, or set data.max_bad_rows to leave such rows out."
        )
    except RecursionError:
        return BadRow("JSON that is nested too deeply to be a row.")
    return _as_row(value)


def _as_row(value: Any) -> dict[str, object] | BadRow:
    if isinstance(value, dict):
        return value
    if isinstance(value, str):
        return {"text": value}
    if isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value):
        return {"messages": value}
    shown = json.dumps(value)[:40]
    return BadRow(f"found {shown}, a JSON {_kind(value)}. Expected an object with named columns, or a string of text.")


def _kind(value: Any) -> str:
    names = {list: "array", bool: "boolean", int: "number", float: "number", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def _read_document(file: InputFile, encoding: str) -> Rows:
    text = _Text(file, encoding)
    opening = text.skip_space()
    if opening == "[":
        yield from _read_array(text)
    elif opening == "{":
        yield from _rows_of_object(file, text.whole())
    else:
        raise DataError(
            f"{file.name}:1: found {text.buffer[:40]!r}. Expected a JSON array of rows, or one JSON object a line."
        )


def _read_array(text: _Text) -> Rows:
    text.take()
    row = 0
    if text.skip_space() == "]":
        return
    while True:
        value = text.value(row)
        yield row, _as_row(value)
        row += 1
        mark = text.skip_space()
        if mark == "]":
            return
        if mark != ",":
            raise text.broken(row - 1, f"expected ',' or ']' after the row, found {mark or 'the end of the file'!r}")
        text.take()
        if text.skip_space() == "]":
            raise text.broken(row - 1, "a comma stands before the closing ']'")


def _rows_of_object(file: InputFile, source: str) -> Rows:
    try:
        value = parse_json(source)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{file.name}:{error.lineno}: column {error.colno}: broken JSON ({error.msg}). Expected one JSON "
            "document, or one object a line, whole on its line."
        ) from None
    except RecursionError:
        raise DataError(f"{file.name}: JSON that is nested too deeply to hold rows.") from None
    _refuse_shape(file, value)
    lists = {key: rows for key, rows in value.items() if isinstance(rows, list)}
    if len(lists) != 1:
        found = ", ".join(list(value)[:8])
        raise DataError(
            f"{file.name}: is one JSON object (keys: {found}) with {len(lists)} lists. Expected an array of rows, an "
            "object with one list of rows, or one JSON object a line (jsonl)."
        )
    for row, item in enumerate(next(iter(lists.values()))):
        yield row, _as_row(item)


def _refuse_columns(file: InputFile, line: str) -> None:
    """Refuse a file whose only line is a table written by columns: as a row it would be one of a whole column."""
    with suppress(ValueError, RecursionError):  # the reader says what is wrong
        value = parse_json(line)
        if isinstance(value, dict):
            _refuse_shape(file, value)


def _refuse_shape(file: InputFile, value: dict[str, Any]) -> None:
    """Raise DataError when one JSON object is a table by columns, or by an index, as DataFrame.to_json writes it."""
    found = _shape(value)
    if found is not None:
        names = ", ".join(list(value)[:4])
        raise DataError(
            f"{file.name}: is a table written {found} (keys: {names}). Expected rows: an array of objects, or one "
            "object a line. From pandas, write it with orient='records', lines=True: "
            "frame.to_json('rows.jsonl', orient='records', lines=True)."
        )


def _shape(value: dict[str, Any]) -> str | None:
    items = list(value.values())
    if {"columns", "data"} <= value.keys() and isinstance(value["columns"], list) and isinstance(value["data"], list):
        return "as columns and data apart (orient='split')"
    if items and all(isinstance(item, dict) and item for item in items):
        inner = {tuple(item) for item in items}
        if len(inner) == 1 and all(key.isdigit() for key in next(iter(inner))):
            return "by column: each column an object of its values"
        if len(inner) == 1 and len(items) > 1 and all(key.isdigit() for key in value):
            return "by index: each row under its number (orient='index')"
    lists = [item for item in items if isinstance(item, list) and item]
    nested = any(isinstance(part, dict | list) for item in lists for part in item)
    if len(items) == len(lists) > 1 and len({len(item) for item in lists}) == 1 and not nested:
        return "by column: each column a list of its values"
    return None


class _Text:
    """The characters of a file, read a piece at a time, of which complete JSON values are taken from the front."""

    def __init__(self, file: InputFile, encoding: str) -> None:
        self.file = file
        self.lines = TextLines(file, encoding)
        self.chunks = self._chunks()
        self.buffer = ""
        self.place = 0
        self.line = 1
        self.ended = False

    def _chunks(self) -> Iterator[str]:
        parts: list[str] = []
        size = 0
        for text in self.lines:
            bad = self.lines.take_bad()
            if bad is not None:
                raise DataError(f"{self.file.name}:{self.lines.number}: {bad.explain()}.")
            parts.append(text)
            size += len(text)
            if size >= _CHUNK_CHARACTERS:
                yield "".join(parts)
                parts, size = [], 0
        yield "".join(parts)

    def _more(self) -> bool:
        chunk = next(self.chunks, None)
        if chunk is None:
            self.ended = True
            return False
        self.line += self.buffer.count("\n", 0, self.place)
        self.buffer = self.buffer[self.place :] + chunk
        self.place = 0
        return True

    def skip_space(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            while self.place < len(self.buffer) and self.buffer[self.place] in " \t\r\n":
                self.place += 1
            if self.place < len(self.buffer):
                return self.buffer[self.place]
            if not self._more():
                return ""

    def take(self) -> None:
        self.place += 1

    def whole(self) -> str:
        while self._more():
            pass
        return self.buffer

    def value(self, row: int) -> Any:
        """The next value. Raises DataError with line and column when it is broken."""
        self.skip_space()
        while True:
            try:
                value, end = _parse_front(self.buffer, self.place)
            except json.JSONDecodeError as error:
                if self._cut_short(error) and self._double():
                    continue
                raise self.broken(row, error.msg, error.pos) from None
            except RecursionError:
                raise self.broken(row, "nested too deeply to be a row") from None
            if end == len(self.buffer) and self._more():
                continue
            self.place = end
            return value

    def _cut_short(self, error: json.JSONDecodeError) -> bool:
        """Whether the error may only mean that the value goes on beyond the buffer."""
        return error.msg.startswith("Unterminated string") or error.pos > len(self.buffer) - 16

    def _double(self) -> bool:
        """Make the buffer at least twice as long, so that a long value is not parsed too often."""
        size = len(self.buffer) - self.place
        if size >= MAX_ROW_CHARACTERS:
            return False
        grew = self._more()
        while grew and len(self.buffer) < 2 * size and self._more():
            pass
        return grew

    def broken(self, row: int, problem: str, place: int | None = None) -> DataError:
        place = self.place if place is None else place
        before = self.buffer[:place]
        line = self.line + before.count("\n")
        column = place - before.rfind("\n")
        near = self.buffer[max(0, place - 20) : place + 20].strip()
        return DataError(
            f"{self.file.name}:{row + 1}: broken JSON at line {line}, column {column} ({problem}), near {near!r}. "
            "Expected an array of rows; mend the file, or write one JSON object a line (jsonl), where one broken row "
            "can be left out."
        )
