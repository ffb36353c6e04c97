"""What was written is what is read: any text, in every format, encoding and compression."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from tunesmith.data.read.bytes import InputFile
from tunesmith.data.read.inputs import open_table
from tunesmith.data.read.table import BadRow
from tunesmith.recipe import DataSection

PACKED: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}
ENCODINGS = {  # as it is written: as the recipe asks for it; the others need no asking
    "utf-8": "auto",
    "utf-8-sig": "auto",
    "utf-16": "auto",
    "utf-32": "auto",
    "utf-16-le": "utf-16-le",
    "latin-1": "latin-1",
    "cp1252": "cp1252",
    "shift_jis": "shift_jis",
}
HEADER = ("one", "two words", "three")
WORDS = st.text("abc ,;|'\"\n\täé", min_size=1, max_size=20).filter(str.strip)
ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=25)
LINE = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=25).filter(str.strip)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("round-trips")


@st.composite
def written(draw: DrawFn, texts: SearchStrategy[Any]) -> tuple[Any, str]:
    """Texts, and an encoding that can write them."""
    value = draw(texts)
    encoding = draw(st.sampled_from(sorted(ENCODINGS)))
    try:
        json.dumps(value, ensure_ascii=False).encode(encoding)
    except UnicodeEncodeError:
        encoding = draw(st.sampled_from(["utf-8", "utf-16"]))
    return value, encoding


def read(folder: Path, name: str, content: bytes, **section: Any) -> list[dict[str, Any]]:
    """The rows of a file with this content, packed as its name says."""
    path = folder / name
    path.write_bytes(PACKED[path.suffix if path.suffix in PACKED else ""](content))
    asked = DataSection(path=str(path), **section)
    rows = []
    for _, values in open_table(InputFile(path, name, asked.encoding), asked).read(None):
        assert not isinstance(values, BadRow), values
        rows.append(dict(values))
    return rows


packed = st.sampled_from(sorted(PACKED))


@settings(deadline=None, max_examples=150)
@given(
    given=written(st.lists(st.tuples(WORDS, ANY.filter(lambda text: "\0" not in text), WORDS), min_size=1, max_size=8)),
    delimiter=st.sampled_from(",;\t|"),
    newline=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    ending=packed,
)
def test_csv(
    folder: Path, given: tuple[list[tuple[str, ...]], str], delimiter: str, newline: str, quoting: Any, ending: str
) -> None:
    rows, encoding = given
    if quoting != csv.QUOTE_ALL:  # csv.writer then leaves a lone \r without quotes, which nothing can read
        rows = [tuple(text.replace("\r", " ") for text in row) for row in rows]
    sink = io.StringIO()
    writer = csv.writer(sink, delimiter=delimiter, lineterminator=newline, quoting=quoting)
    writer.writerows([HEADER, *rows])
    name = ("a.tsv" if delimiter == "\t" else "a.csv") + ending
    content = sink.getvalue().encode(encoding)
    found = read(folder, name, content, delimiter=delimiter, encoding=ENCODINGS[encoding])
    assert found == [dict(zip(HEADER, row, strict=True)) for row in rows]


@settings(deadline=None, max_examples=100)
@given(
    given=written(
        st.lists(st.dictionaries(ANY, ANY | st.integers() | st.none() | st.lists(ANY), max_size=4), min_size=1)
    ),
    lines=st.booleans(),
    indent=st.sampled_from([None, 2]),
    ascii_only=st.booleans(),
    named=st.sampled_from(["a.json", "a.jsonl"]),
    ending=packed,
)
def test_json(
    folder: Path,
    given: tuple[list[dict[str, Any]], str],
    lines: bool,
    indent: int | None,
    ascii_only: bool,
    named: str,
    ending: str,
) -> None:
    rows, encoding = given
    if lines:
        named = "a.jsonl" if len(rows) == 1 else named  # {"data": [...]} alone in a .json is a data set, not a row
        text = "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows)
    else:
        text = json.dumps(rows, ensure_ascii=ascii_only, indent=indent)
    assert read(folder, named + ending, text.encode(encoding), encoding=ENCODINGS[encoding]) == rows


@settings(deadline=None, max_examples=40)
@given(
    rows=st.lists(
        st.fixed_dictionaries({"text": ANY | st.none(), "n": st.integers(-9, 9), "turns": st.lists(ANY, max_size=2)}),
        min_size=1,
        max_size=8,
    ),
    group=st.integers(1, 3),
    compression=st.sampled_from(["none", "snappy", "zstd"]),
    ending=packed,
)
def test_parquet(folder: Path, rows: list[dict[str, Any]], group: int, compression: str, ending: str) -> None:
    types = pyarrow.schema(
        [("text", pyarrow.string()), ("n", pyarrow.int64()), ("turns", pyarrow.list_(pyarrow.string()))]
    )
    sink = io.BytesIO()
    table = pyarrow.Table.from_pylist(rows, types)
    pyarrow.parquet.write_table(table, sink, row_group_size=group, compression=compression)
    assert read(folder, "a.parquet" + ending, sink.getvalue()) == rows


@st.composite
def paragraphs(draw: DrawFn) -> list[list[str]]:
    return draw(st.lists(st.lists(LINE, min_size=1, max_size=3), min_size=1, max_size=4))


@settings(deadline=None, max_examples=150)
@given(
    given=written(paragraphs()),
    by=st.sampled_from(["line", "paragraph", "file"]),
    newline=st.sampled_from(["\n", "\r\n"]),
    blank=st.sampled_from(["", " ", "\n", "\t\n "]),
    last=st.booleans(),
    ending=packed,
)
def test_text(
    folder: Path, given: tuple[list[list[str]], str], by: str, newline: str, blank: str, last: bool, ending: str
) -> None:
    blocks, encoding = given
    text = f"\n{blank}\n".join("\n".join(block) for block in blocks)
    expected = {
        "line": [line for block in blocks for line in block],
        "paragraph": ["\n".join(block) for block in blocks],
        "file": [text],
    }
    content = (text + "\n" * last).replace("\n", newline).encode(encoding)
    found = read(folder, "a.txt" + ending, content, by=by, encoding=ENCODINGS[encoding])
    assert [row["text"] for row in found] == expected[by]
