"""Readers: what is found in a file, what is said of it, how rows are called. Round trips: test_round_trips.py."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import yaml
import zstandard

from tunesmith.data import Data, TokenizedDocuments
from tunesmith.data.read.bytes import InputFile
from tunesmith.data.read.csv import open_csv
from tunesmith.data.read.documents import strip_tags
from tunesmith.data.read.inputs import find_inputs, spool_stdin
from tunesmith.data.read.json import open_json
from tunesmith.data.read.table import BadRow, Table
from tunesmith.errors import DataError
from tunesmith.recipe import DataSection

Prepared = Callable[..., Data]


def read(table: Table) -> list[dict[str, Any]]:
    rows = []
    for _, values in table.read(None):
        assert not isinstance(values, BadRow), values
        rows.append(dict(values))
    return rows


def all_texts(data: Data) -> set[str]:
    return {documents.text(i) or "" for documents in (data.train, data.eval) for i in range(len(documents))}


def test_a_json_array_is_read_a_piece_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.data.read.json._CHUNK_CHARACTERS", 50)
    rows = [{"text": "word " * (i % 40), "n": i} for i in range(100)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows, indent=1))
    assert read(open_json(InputFile(path, "a.json"), "json")) == rows


def test_an_object_with_one_list_is_its_rows(prepared: Prepared, tmp_path: Path, texts: list[str]) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"version": 1, "data": [{"text": text} for text in texts]}))
    assert all_texts(prepared(path)) == set(texts)


def zipped(content: bytes, name: str = "inner") -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return sink.getvalue()


PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zip": zipped,
}


def write(path: Path, texts: list[str]) -> Path:
    """Texts in the format that the name asks for."""
    name, packed = (path.stem, path.suffix) if path.suffix in PACK else (path.name, "")
    if name.endswith(".parquet"):
        sink = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.table({"text": texts, "n": list(range(len(texts)))}), sink)
        content = sink.getvalue()
    elif name.endswith((".csv", ".tsv")):
        delimiter = "\t" if name.endswith(".tsv") else ","
        content = f"n{delimiter}text\n".encode() + b"".join(
            f"{i}{delimiter}{t}\n".encode() for i, t in enumerate(texts)
        )
    elif name.endswith(".json"):
        content = json.dumps([{"text": text} for text in texts]).encode()
    elif name.endswith((".jsonl", ".ndjson")):
        content = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)
    else:
        content = "\n".join(texts).encode()
    path.write_bytes(PACK[packed](content))
    return path


NAMES = [f"a.{kind}{ending}" for kind in ("csv", "tsv", "json", "jsonl", "ndjson", "parquet", "txt") for ending in PACK]


@pytest.mark.parametrize("name", NAMES)
def test_every_format_plain_and_compressed(prepared: Prepared, tmp_path: Path, texts: list[str], name: str) -> None:
    data = prepared(write(tmp_path / name, texts))
    assert all_texts(data) == set(texts)
    row = int(data.train.rows[0])
    assert texts[row] == data.train.text(0)


def test_a_compressed_file_needs_no_ending(prepared: Prepared, tmp_path: Path, texts: list[str]) -> None:
    path = write(tmp_path / "a.csv.gz", texts).rename(tmp_path / "a.csv")
    assert all_texts(prepared(path)) == set(texts)


@pytest.mark.parametrize(
    ("content", "delimiter", "encoding"),
    [
        ("n;text\n1;a, b\n2;c, d\n", ";", "utf-8"),
        ("n\ttext\n1\ta; b\n2\tc; d\n", "\t", "utf-8"),
        ("n|text\n1|a\n2|c\n", "|", "utf-8"),
        ("sep=;\nn;text\n1;a\n2;c\n", ";", "utf-8"),
        ("text\na, b\nc, d, e\n".replace(", ", " "), ",", "utf-8"),
        ("n,text\r1,a\r2,c\r", ",", "utf-8"),
        ("n,text\n1,ä\n2,ö\n", ",", "utf-16"),
        ("n,text\n1,ä\n2,ö\n", ",", "utf-8-sig"),
    ],
)
def test_delimiter_and_encoding_are_found_and_said(
    prepared: Prepared, tmp_path: Path, content: str, delimiter: str, encoding: str
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content.encode(encoding))
    account = prepared(path, text="text").account
    assert account.delimiter == delimiter
    assert account.encoding == encoding
    assert account.rows_read == 2
    assert bool(account.notes) == (delimiter != "," or encoding != "utf-8")


@pytest.mark.parametrize(
    ("content", "expected", "said"),
    [
        ('n, text\n1, "a, b"\n2, "c, d"\n', {"a, b", "c, d"}, "spaces after the delimiter"),
        ('n,text\n1,"a \\"b\\", c"\n2,"d, e"\n', {'a "b", c', "d, e"}, "a backslash stands before quotes"),
        ('n\ttext\n1\t"a" said b\n2\tc\n', {'"a" said b', "c"}, "double quotes are part of the text"),
    ],
)
def test_quoting_is_found_and_said(
    prepared: Prepared, tmp_path: Path, content: str, expected: set[str], said: str
) -> None:
    path = tmp_path / ("a.tsv" if "\t" in content else "a.csv")
    path.write_text(content)
    data = prepared(path, text="text")
    assert all_texts(data) == expected
    assert said in data.account.notes[0]


def test_prompts_that_run_into_completions_are_said(prepared: Prepared, tmp_path: Path, texts: list[str]) -> None:
    rows = [{"prompt": f"Why {text}?", "completion": text} for text in texts]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "run into their completions" in prepared(path).account.notes[0]
    assert prepared(path, prompt="{prompt}\n", completion="completion").account.notes == ()


def test_an_encoding_that_is_asked_for_is_used(prepared: Prepared, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("n,text\n1,Amélie\n2,Zoé\n".encode("latin-1"))
    assert all_texts(prepared(path, text="text", encoding="latin-1")) == {"Amélie", "Zoé"}


def test_rows_are_called_by_their_line_even_after_blank_ones(prepared: Prepared, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\nn,text\n\n1,first\n\n\n2,second\n")
    (tmp_path / "a.jsonl").write_text('\n{"text": "first"}\n\n{"text": "second"}\n')
    names = {"a.csv": {"first": 4, "second": 7}, "a.jsonl": {"first": 2, "second": 4}}
    for name, lines in names.items():
        data = prepared(tmp_path / name, text="text")
        for documents in (data.train, data.eval):
            assert documents.row_name(0) == f"{tmp_path / name}:{lines[documents.text(0) or '']}"


def test_a_column_called_twice_keeps_both(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,text,\na,b,c\n")
    table = open_csv(InputFile(tmp_path / "a.csv", "a.csv"), "auto", "csv")
    assert table.columns == ("text", "text.2", "column_3")


def test_a_quoted_field_may_hold_lines(prepared: Prepared, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text\n"one\n\ntwo, ""three"""\nfour\n')
    assert all_texts(prepared(tmp_path / "a.csv")) == {'one\n\ntwo, "three"', "four"}


TEXT = "First line\nsecond line\n\n\n  Third line\n\nFourth\n"


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("line", {"First line", "second line", "  Third line", "Fourth"}),
        ("paragraph", {"First line\nsecond line", "  Third line", "Fourth"}),
    ],
)
def test_text_by_line_and_paragraph(prepared: Prepared, tmp_path: Path, by: str, expected: set[str]) -> None:
    (tmp_path / "a.txt").write_bytes(TEXT.replace("\n", "\r\n").encode())
    data = prepared(tmp_path / "a.txt", by=by)
    assert all_texts(data) == expected
    assert data.account.empty == 0


def test_text_by_file(prepared: Prepared, tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / f"{name}.txt").write_text(f"{name}\n\nmore of {name}\n")
    data = prepared(tmp_path, by="file")
    assert all_texts(data) == {f"{name}\n\nmore of {name}" for name in ("one", "two", "three")}


def test_a_folder_of_mixed_files(prepared: Prepared, tmp_path: Path, texts: list[str]) -> None:
    names = ["a.csv", "deep/b.jsonl", "deep/er/c.parquet.gz", "d.txt"]
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / name, texts[15 * number : 15 * number + 15])
    for name in ("README.md", ".hidden.csv", "LICENSE.txt", "picture.png", "_index.csv"):
        (tmp_path / name).write_text("not a row\n")
    data = prepared(tmp_path)
    assert all_texts(data) == set(texts)
    assert [file.path for file in data.account.files] == [str(tmp_path / name) for name in sorted(names)]
    assert data.account.encoding == "utf-8"
    assert data.account.delimiter == ","  # of the one file that has any


def test_a_glob(prepared: Prepared, tmp_path: Path, texts: list[str]) -> None:
    for number in range(3):
        write(tmp_path / f"part-{number}.jsonl", texts[20 * number : 20 * number + 20])
    assert all_texts(prepared(str(tmp_path / "part-[01].jsonl"))) == set(texts[:40])
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep" / "part-9.jsonl", texts[40:])
    assert len(find_inputs(str(tmp_path / "**" / "*.jsonl"), DataSection(path="x"))) == 4


class _Pipe:
    def __init__(self, content: bytes) -> None:
        self.buffer = io.BytesIO(content)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.txt", "a.parquet", "a.csv.gz"])
def test_standard_input(
    prepared: Prepared, tmp_path: Path, texts: list[str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool_stdin.cache_clear()
    monkeypatch.setattr("sys.stdin", _Pipe(write(tmp_path / name, texts).read_bytes()))
    try:
        first = prepared("-", text="text")
        assert all_texts(first) == set(texts)
        assert first.train.row_name(0).startswith("stdin:")
        assert prepared("-", text="text", seed=8).account.rows_read == 60  # what is piped in is read once and kept
    finally:
        spool_stdin.cache_clear()


def test_a_bare_dash_on_the_command_line_is_standard_input() -> None:
    assert DataSection.model_validate({"path": yaml.safe_load("-")}).path == "-"  # YAML reads a list of nothing


def test_nothing_piped_in_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    spool_stdin.cache_clear()
    pipe = _Pipe(b"")
    terminal = io.BytesIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    pipe.buffer = terminal
    monkeypatch.setattr("sys.stdin", pipe)
    with pytest.raises(DataError, match="nothing is piped in"):
        spool_stdin()


@pytest.mark.parametrize("split", [None, "train", "validation"])
def test_a_saved_data_set(prepared: Prepared, tmp_path: Path, texts: list[str], split: str | None) -> None:
    datasets = pytest.importorskip("datasets")
    parts = {"train": texts[:40], "validation": texts[40:]}
    whole = datasets.DatasetDict({name: datasets.Dataset.from_dict({"text": part}) for name, part in parts.items()})
    path = tmp_path / "saved"
    whole.save_to_disk(str(path))
    data = prepared(path if split is None else path / split)
    if split is None:
        assert (len(data.train), len(data.eval)) == (40, 20)
        assert "train to train on, validation held out" in data.account.notes[0]
        data = prepared(path, splits="ignore")
    assert all_texts(data) == set(parts[split or "train"])
    assert data.train.row_name(0).startswith(str(path))
    assert bool(data.account.notes) == (split is None)


def test_hub_data_is_read_by_split(prepared: Prepared, texts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(name: str, config: str | None, split: str | None) -> Any:
        asked.append((name, config, split))
        return datasets.Dataset.from_dict({"text": texts})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    data = prepared("hub:owner/name/config:train")
    assert asked == [("owner/name", "config", "train")]
    assert all_texts(data) == set(texts)
    assert data.train.row_name(0) == f"hub:owner/name:train:{data.train.rows[0] + 1}"


def test_markdown_is_read_without_its_marks(prepared: Prepared, tmp_path: Path) -> None:
    pytest.importorskip("markdown_it")
    (tmp_path / "a.md").write_text(
        "---\ntitle: x\n---\n# Title\n\nSome *words* and [a link](http://x).\n\n- one\n- two\n\n```py\nx = 1\n```\n"
    )
    (tmp_path / "b.md").write_text("Just text.\n")
    expected = "Title\n\nSome words and a link.\n\none\n\ntwo\n\nx = 1"
    assert all_texts(prepared(tmp_path)) == {expected, "Just text."}
    assert len(all_texts(prepared(tmp_path, by="paragraph"))) == 6
    raw = prepared(tmp_path, format="txt", by="file")
    assert any(text.startswith("---\ntitle: x") for text in all_texts(raw))


def test_html_is_read_without_tags_and_scripts() -> None:
    page = (
        "<!doctype html><html><head><title>T</title><style>p {}</style></head><body><nav>menu</nav><h1>A &amp; B</h1>"
        "<p>One<br>two <b>three</b>\n four<script>bad()</script><p>five<ul><li>six<li>seven</ul></body></html>"
    )
    assert strip_tags(page) == "A & B\n\nOne\n\ntwo three four\n\nfive\n\nsix\n\nseven"


def test_word_documents(prepared: Prepared, tmp_path: Path) -> None:
    docx = pytest.importorskip("docx")
    for name in ("one", "two"):
        document = docx.Document()
        document.add_paragraph(f"Paragraph of {name}.")
        table = document.add_table(1, 2)
        table.cell(0, 0).text, table.cell(0, 1).text = name, "cell"
        document.save(tmp_path / f"{name}.docx")
    assert all_texts(prepared(tmp_path)) == {f"Paragraph of {name}.\n\n{name} | cell" for name in ("one", "two")}


def pdf_of(text: str) -> bytes:
    """A PDF of one page, written by hand."""
    stream = f"BT /F1 12 Tf 50 700 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R"
        b" /Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
    ]
    body, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        places.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"xref\n0 5\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % place for place in places)
    return body + table + b"trailer\n<< /Size 5 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % len(body)


def test_pdf_documents(prepared: Prepared, tmp_path: Path) -> None:
    pytest.importorskip("pypdf")
    for name in ("one", "two"):
        (tmp_path / f"{name}.pdf").write_bytes(pdf_of(f"A page about {name}."))
    assert all_texts(prepared(tmp_path)) == {"A page about one.", "A page about two."}


def test_documents_of_one_split_can_be_indexed() -> None:
    documents = TokenizedDocuments.from_lists([([1, 2, 3], None), ([4, 5], [False, True])])
    assert [ids.tolist() for ids, _ in documents] == [[1, 2, 3], [4, 5]]
    assert documents.num_targets == 3
    assert documents.row_name(1) == "row 2"
    assert documents.text(0) is None
    with pytest.raises(IndexError):
        documents[2]
