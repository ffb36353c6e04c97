"""Markdown, HTML, PDF and Word files as plain text. The whole file is a row, or each paragraph with `by: paragraph`.

Markdown and HTML need nothing but the standard packages; PDF and Word need the extra `tunesmith[documents]`.
"""

from __future__ import annotations

import io
import logging
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

from tunesmith.data.read.bytes import InputFile, TextLines, find_encoding, guard
from tunesmith.data.read.table import About, Rows, Table
from tunesmith.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_BYTES = 1 << 28
_HIDDEN = {"script", "style", "head", "template", "noscript", "svg", "nav"}
_BLOCK = re.compile(
    "address|article|aside|blockquote|br|dd|div|dl|dt|figcaption|figure|footer|form|h[1-6]|header|hr|li|main|ol|p|pre|section|table|td|th|tr|u"
    "l"
)
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)


def open_document(file: InputFile, kind: str, by: str) -> Table:
    """The text of one md, html, pdf or docx file. Raises DataError when it cannot be read or holds no text."""
    text = _READERS[kind](file)
    blocks = [block.strip() for block in re.split(r"\n\s*\n", text)] if by == "paragraph" else [text.strip()]
    rows = [block for block in blocks if block]
    if not rows:
        hint = "Scanned pages hold images; run text recognition first." if kind == "pdf" else "Leave the file out."
        raise DataError(f"{file.name}: holds no text. {hint}")
    return Table(
        name=file.name,
        kind=kind,
        columns=("text",),
        read=lambda _: _rows(rows),
        plain_text=True,
        about=About(None),
    )


def _rows(rows: list[str]) -> Rows:
    return ((number, {"text": text}) for number, text in enumerate(rows))


def _whole(file: InputFile) -> bytes:
    with file.open() as stream, guard(file):
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise DataError(f"{file.name}: is larger than {MAX_BYTES >> 20} MiB. Expected one document a file.")
    return data


def _decoded(file: InputFile) -> str:
    lines = TextLines(file, find_encoding(file, file.head()))
    parts = []
    for line in lines:
        bad = lines.take_bad()
        if bad is not None:
            raise DataError(f"{file.name}:{lines.number}: {bad.explain()}.")
        parts.append(line)
    return "".join(parts).replace("\r\n", "\n")


def _read_markdown(file: InputFile) -> str:
    from markdown_it import MarkdownIt

    source = _FRONT_MATTER.sub("", _decoded(file))
    blocks: list[str] = []
    for token in MarkdownIt("commonmark").enable("table").parse(source):
        if token.type == "inline":
            blocks.append("".join(_inline(child) for child in token.children or []))
        elif token.type in ("fence", "code_block"):
            blocks.append(token.content.rstrip("\n"))
        elif token.type == "html_block":
            blocks.append(strip_tags(token.content))
    return "\n\n".join(block for block in blocks if block.strip())


def _inline(token: Any) -> str:
    if token.type in ("text", "code_inline"):
        return str(token.content)
    if token.type == "image":
        return str(token.content)
    return "\n" if token.type in ("softbreak", "hardbreak") else ""


def _read_html(file: InputFile) -> str:
    return strip_tags(_decoded(file))


def strip_tags(source: str) -> str:
    """The text of an HTML page: no scripts, styles, head or navigation; a blank line between blocks."""
    stripper = _Stripper()
    stripper.feed(source)
    stripper.close()
    blocks = (" ".join(block.split()) for block in "".join(stripper.parts).split("\n\n"))
    return "\n\n".join(block for block in blocks if block)


class _Stripper(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.hidden: list[str] = []

    def handle_starttag(self, tag: str, _: list[tuple[str, str | None]]) -> None:
        if tag in _HIDDEN:
            self.hidden.append(tag)
        if _BLOCK.fullmatch(tag):
            self.parts.append("\n\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self.hidden:
            del self.hidden[self.hidden.index(tag) :]
        if _BLOCK.fullmatch(tag):
            self.parts.append("\n\n")

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.parts.append(data)


def _read_pdf(file: InputFile) -> str:
    pypdf = _import("pypdf", file)
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # what it logs, the DataError below says
    try:
        reader = pypdf.PdfReader(io.BytesIO(_whole(file)))
        if reader.is_encrypted and not reader.decrypt(""):
            raise DataError(f"{file.name}: is locked with a password. Save it without one.")
        return "\n\n".join(page.extract_text() for page in reader.pages)
    except DataError:
        raise
    except Exception as error:  # damaged PDFs raise anything
        raise DataError(f"{file.name}: is not a PDF that can be read ({error}). Export it again.") from None


def _read_docx(file: InputFile) -> str:
    docx = _import("docx", file)
    try:
        document = docx.Document(io.BytesIO(_whole(file)))
    except Exception as error:  # zip, XML and lookup errors
        raise DataError(
            f"{file.name}: is not a Word document that can be read ({error}). Save it as .docx again."
        ) from None
    tables = [" | ".join(cell.text for cell in row.cells) for table in document.tables for row in table.rows]
    return "\n\n".join([paragraph.text for paragraph in document.paragraphs] + tables)


def _import(package: str, file: InputFile) -> Any:
    from importlib import import_module

    try:
        return import_module(package)
    except ImportError:
        raise DataError(
            f"{file.name}: reading it needs the package {package}. Install it with: pip install 'tunesmith[documents]'"
        ) from None


_READERS: dict[str, Callable[[InputFile], str]] = {
    "md": _read_markdown,
    "html": _read_html,
    "pdf": _read_pdf,
    "docx": _read_docx,
}
