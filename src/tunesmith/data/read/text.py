"""Plain text: a row is a line, a paragraph (blank lines between) or the whole file. The column is called text."""

from __future__ import annotations

from tunesmith.data.read.bytes import BadBytes, InputFile, TextLines, find_encoding
from tunesmith.data.read.table import About, BadRow, Rows, Table
from tunesmith.errors import DataError

MAX_FILE_CHARACTERS = 1 << 28


def open_text(file: InputFile, by: str, kind: str = "txt") -> Table:
    """The rows of `file`. by: line, paragraph or file. Raises DataError when the file is empty or binary."""
    encoding = find_encoding(file, file.head())
    return Table(
        name=file.name,
        kind=kind,
        columns=("text",),
        read=lambda _: _READERS[by](TextLines(file, encoding), file),
        plain_text=True,
        about=About(encoding),
    )


def _by_line(lines: TextLines, _: InputFile) -> Rows:
    for row, line in enumerate(lines):
        bad = lines.take_bad()
        if bad is not None:
            yield row, BadRow(f"{bad.explain()}.")
        elif not line.isspace():
            yield row, {"text": line.rstrip("\r\n")}


def _by_paragraph(lines: TextLines, _: InputFile) -> Rows:
    """Paragraphs are called by the line that they begin in."""
    parts: list[str] = []
    begin = 0
    bad: BadBytes | None = None
    for number, line in enumerate(lines):
        bad = bad or lines.take_bad()
        if not line.isspace():
            begin = begin if parts else number
            parts.append(line)
        elif parts:
            yield begin, _joined(parts, bad)
            parts, bad = [], None
    if parts:
        yield begin, _joined(parts, bad)


def _by_file(lines: TextLines, file: InputFile) -> Rows:
    parts: list[str] = []
    size = 0
    for line in lines:
        bad = lines.take_bad()
        if bad is not None:
            raise DataError(f"{file.name}:{lines.number}: {bad.explain()}.")
        parts.append(line)
        size += len(line)
        if size > MAX_FILE_CHARACTERS:
            raise DataError(
                f"{file.name}: has more than {MAX_FILE_CHARACTERS:,} characters, too many for one row. Set data.by: "
                "paragraph or line."
            )
    if any(not part.isspace() for part in parts):
        yield 0, _joined(parts, None)


def _joined(parts: list[str], bad: BadBytes | None) -> dict[str, str] | BadRow:
    if bad is not None:
        return BadRow(f"{bad.explain()}.")
    return {"text": "".join(parts).replace("\r\n", "\n").rstrip("\n")}


_READERS = {"line": _by_line, "paragraph": _by_paragraph, "file": _by_file}
