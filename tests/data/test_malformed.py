"""Bad input, one file after another: each is refused with one message that says where, what and what to do.

Nothing is loaded beyond the tokenizer, and the input is as it was.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from tunesmith.data import Data
from tunesmith.errors import DataError, RecipeError
from tunesmith.models.tokenizer import TextTokenizer
from tunesmith.recipe import DataSection, Recipe

GOOD = [
    {"title": f"T{i}", "year": 1990 + i, "text": f"A story about number {i} and its {i * 37} friends."}
    for i in range(9)
]
CSV = "title,text\n" + "".join(f'T{i},"A story, about {i} and {i * 37} friends."\n' for i in range(9))
JSONL = "".join(json.dumps(row) + "\n" for row in GOOD)


def parquet_of(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue()


def archive() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as file:
        file.writestr("xl/workbook.xml", "<workbook/>")
    return sink.getvalue()


def jsonl(*lines: str, before: int = 4) -> bytes:
    rows = JSONL.splitlines()
    return "\n".join([*rows[:before], *lines, *rows[before:], ""]).encode()


@dataclass
class Case:
    """name: of the file, and what it holds (None: no file). values: of the recipe. says: what the message must hold."""

    id: str
    name: str
    content: bytes | str | None
    says: list[str]
    values: dict[str, Any] = field(default_factory=dict)
    path: str | None = None


def turns(*pairs: tuple[str, Any]) -> str:
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in pairs]})


GOOD_TURNS = "".join(turns(("user", f"What is {i}?"), ("assistant", f"It is {i}.")) + "\n" for i in range(5))
LATIN = (
    "title,text\n" + "".join(f"T{i},A plain story number {i}.\n" for i in range(8807)) + "Amélie,Le fabuleux destin.\n"
)

CASES = [
    # paths
    Case("missing-file", "shows.csv", CSV, ["no such file", "Did you mean", "shows.csv"], path="show.csv"),
    Case("missing-folder", "shows.csv", CSV, ["no such file", "does not exist either"], path="nowhere/shows.csv"),
    Case("nothing-near", "shows.csv", CSV, ["no such file", "The folder holds shows.csv"], path="x.parquet"),
    Case("empty-glob", "shows.csv", CSV, ["no file matches"], path="*.jsonl"),
    Case(
        "folder-without-data", "notes.bin", b"x", ["is a folder without a file that can be read", "notes.bin"], path="."
    ),
    Case("empty-folder", "sub/.keep", b"", ["is a folder without a file that can be read", ".keep"], path="sub"),
    Case("unknown-ending", "shows.dat", CSV, ["'.dat' is not known", "data.format"]),
    Case("no-ending", "shows", CSV, ["no ending", "data.format"]),
    # bytes
    Case("empty-file", "a.csv", b"", ["a.csv: is empty (0 bytes)"]),
    Case("empty-jsonl", "a.jsonl", b"", ["a.jsonl: is empty (0 bytes)"]),
    Case("empty-txt", "a.txt", b"", ["a.txt: is empty (0 bytes)"]),
    Case("only-newlines", "a.csv", b"\n\n\n", ["a.csv: holds only empty lines"]),
    Case("only-newlines-jsonl", "a.jsonl", b"\n \n", ["a.jsonl: holds only empty lines"]),
    Case("only-newlines-txt", "a.txt", b"\n \n\n", ["a.txt", "holds no rows"]),
    Case(
        "latin-1-at-row-8808",
        "netflix.csv",
        LATIN.encode("latin-1"),
        [
            "netflix.csv:8809: data row 8808",
            f"byte {LATIN.encode('latin-1').index(0xE9)} (0xE9) is not UTF-8",
            "Amélie",
            "encoding: latin-1",
        ],
    ),
    Case(
        "cp1252", "a.csv", CSV.replace("story", "story\x92s").encode("latin-1"), ["a.csv:2", "0x92", "encoding: cp1252"]
    ),
    Case("latin-1-header", "a.csv", "titré,text\nx,y z\n".encode("latin-1"), ["a.csv:1: in the header", "0xE9"]),
    Case("latin-1-jsonl", "a.jsonl", jsonl('{"text": "café"}').replace("é".encode(), b"\xe9"), ["a.jsonl:5", "0xE9"]),
    Case("latin-1-txt", "a.txt", b"one\ntwo\ncaf\xe9\n", ["a.txt:3", "byte 11 (0xE9)", "encoding: latin-1"]),
    Case("latin-1-json", "a.json", b'[{"text": "caf\xe9"}]', ["a.json:1", "0xE9"]),
    Case("utf-16-no-mark", "a.csv", CSV.encode("utf-16-le"), ["a.csv", "UTF-16", "encoding: utf-16-le"]),
    Case("utf-16-cut", "a.csv", CSV.encode("utf-16")[:-1], ["a.csv:10", "utf-16"]),
    Case("utf-8-cut", "a.txt", "one\ntwo\nthree é".encode()[:-1], ["a.txt:3", "0xC3", "cut short"]),
    Case("wrong-encoding-name", "a.csv", CSV, ["data.encoding", "'latin-11'", "latin-1"], {"encoding": "latin-11"}),
    Case(
        "ascii-asked",
        "a.csv",
        CSV.replace("story", "störy"),
        ["a.csv:2", "0xC3", "ASCII", "encoding: utf-8"],
        {"encoding": "ascii"},
    ),
    Case("excel", "a.csv", archive(), ["a.csv", "Excel workbook"]),
    Case("pdf-as-txt", "a.txt", b"%PDF-1.7\n%\xe2\xe3", ["a.txt", "PDF"]),
    Case("png-as-jsonl", "a.jsonl", b"\x89PNG\r\n\x1a\n0000", ["a.jsonl", "PNG"]),
    Case("pickle", "a.txt", b"\x80\x04\x95abc", ["a.txt", "pickle"]),
    Case("zeros", "a.csv", CSV.encode() + b"\x00" * 20, ["a.csv", "zero", "binary file"]),
    Case("gzip-cut", "a.csv.gz", gzip.compress(CSV.encode() * 50)[:-30], ["a.csv.gz", "cut short or damaged"]),
    Case("gzip-damaged", "a.jsonl.gz", b"\x1f\x8b" + b"x" * 50, ["a.jsonl.gz", "cut short or damaged"]),
    Case("zstd-damaged", "a.csv.zst", zstandard.compress(CSV.encode())[:9] + b"xx", ["a.csv.zst"]),
    Case("bzip2-cut", "a.csv.bz2", bz2.compress(CSV.encode() * 50)[:-30], ["a.csv.bz2", "cut short or damaged"]),
    Case("bzip2-damaged", "a.jsonl.bz2", b"BZh9" + b"x" * 50, ["a.jsonl.bz2", "cut short or damaged"]),
    Case("xz-cut", "a.csv.xz", lzma.compress(CSV.encode() * 50)[:-30], ["a.csv.xz", "cut short or damaged"]),
    Case("xz-damaged", "a.csv.xz", b"\xfd7zXZ\x00" + b"x" * 50, ["a.csv.xz", "cut short or damaged"]),
    Case("bzip2-in-gzip", "a.csv.gz", gzip.compress(bz2.compress(CSV.encode())), ["a.csv.gz", "bzip2 archive"]),
    # csv
    Case("header-only", "a.csv", "title,text\n", ["a.csv: holds no rows"]),
    Case("one-row", "a.csv", "title,text\nx,only one\n", ["a.csv: holds one usable row"]),
    Case("empty-rows", "a.csv", "title,text\n" + "x,\n" * 9, ["a.csv: none of the 9 rows", "a.csv:2"]),
    Case(
        "many-empty", "a.csv", CSV + "x,\n" * 5, ["a.csv:11", "5 of 14 rows (35.7%) are empty", "max_bad_rows: 0.358"]
    ),
    Case(
        "wrong-delimiter",
        "a.csv",
        CSV.replace(",", ";"),
        ["a.csv:1", "one column when split at ','", "looks like ';'"],
        {"delimiter": ","},
    ),
    Case("long-delimiter", "a.csv", CSV, ["data.delimiter", "'::'"], {"delimiter": "::"}),
    Case("missing-column", "a.csv", CSV, ["no column 'txt'", "Did you mean 'text'", "title, text"], {"text": "txt"}),
    Case("column-case", "a.csv", CSV, ["no column 'TEXT'", "Did you mean 'text'"], {"text": "TEXT"}),
    Case("no-column", "a.csv", "a,b\nsome words,other words\nand more,and more\n", ["no column was chosen", "a, b"]),
    Case("numbers", "a.csv", "n,m\n1,2\n3,4\n", ["none holds text"]),
    Case(
        "column-of-numbers",
        "a.csv",
        "year,t\n1990,some words\n1991,more\n",
        ["a.csv:2", "numbers", "t."],
        {"text": "year"},
    ),
    Case("too-few-fields", "a.csv", CSV + "lonely\n", ["a.csv:11", "1 field, where the header has 2"]),
    Case(
        "too-many-fields", "a.csv", CSV + "a,b,c\n", ["a.csv:11", "3 fields, where the header has 2", "double quotes"]
    ),
    Case("open-quote", "a.csv", CSV + 'x,"never closed\n', ["a.csv:11", "never closed"]),
    Case("text-after-quote", "a.csv", CSV + 'x,"said "so" twice"\n', ["a.csv:11", "closing double quote"]),
    Case("open-quote-inside", "a.csv", CSV.replace('"A story, about 3', '"A "story, about 3'), ["a.csv:5"]),
    # json
    Case("broken-line", "a.jsonl", jsonl('{"text": "x"'), ["a.jsonl:5", "column 13", "broken JSON"]),
    Case("single-quotes", "a.jsonl", jsonl("{'text': 'x'}"), ["a.jsonl:5", "column 2", "double quotes"]),
    Case("a-number", "a.jsonl", jsonl("17"), ["a.jsonl:5", "found 17, a JSON number"]),
    Case("a-null", "a.jsonl", jsonl("null"), ["a.jsonl:5", "a JSON null"]),
    Case("a-list-of-numbers", "a.jsonl", jsonl("[1, 2]"), ["a.jsonl:5", "a JSON array"]),
    Case("text-is-number", "a.jsonl", jsonl('{"text": 3}'), ["a.jsonl:5", "column 'text' holds a number (3)"]),
    Case("text-is-list", "a.jsonl", jsonl('{"text": ["a", "b"]}'), ["a.jsonl:5", "a list"]),
    Case("text-is-object", "a.jsonl", jsonl('{"text": {"a": 1}}'), ["a.jsonl:5", "an object"]),
    Case("half-a-character", "a.jsonl", jsonl('{"text": "x\\ud83d"}'), ["a.jsonl:5", "half a character (U+D83D"]),
    Case("two-objects", "a.jsonl", jsonl('{"text": "a"}{"text": "b"}'), ["a.jsonl:5", "column 14", "Extra data"]),
    Case("deep", "a.jsonl", jsonl("[" * 100_000), ["a.jsonl:5"]),
    Case(
        "other-keys",
        "a.jsonl",
        jsonl('{"txt": "x"}').replace(b'"text"', b'"body"'),
        ["no column 'text'"],
        {"text": "text"},
    ),
    Case("array-cut", "a.json", json.dumps(GOOD)[:-30], ["a.json:9", "line 1, column", "broken JSON"]),
    Case("array-comma", "a.json", json.dumps(GOOD)[:-1] + ",]", ["a.json:9", "comma"]),
    Case("array-no-comma", "a.json", json.dumps(GOOD).replace("}, {", "} {", 1), ["a.json:1", "expected ','"]),
    Case("empty-array", "a.json", "[]", ["a.json: holds no rows"]),
    Case("no-rows-in-object", "a.json", '{"a": 1,\n "b": {}}', ["a.json", "keys: a, b", "one list"]),
    Case("columns-of-rows", "a.json", '{\n"text": {"0": "a"}}', ["a.json", "by column", "lines=True"]),
    Case("json-scalar", "a.json", '"just text"', ["a.json", "one usable row"]),
    Case("json-word", "a.json", "hello there", ["a.json:1", "Expected a JSON array"]),
    # parquet
    Case("parquet-cut", "a.parquet", parquet_of(GOOD)[:-20], ["a.parquet", "not a whole Parquet file"]),
    Case("csv-as-parquet", "a.parquet", CSV, ["a.parquet", "not a whole Parquet file", "data.format"]),
    Case("parquet-no-rows", "a.parquet", parquet_of([]), ["a.parquet"]),
    Case(
        "parquet-numbers",
        "a.parquet",
        parquet_of(GOOD),
        ["a.parquet:1", "column 'year' holds a number"],
        {"text": "year"},
    ),
    # rows
    Case("template-column", "a.csv", CSV, ["no column 'name'", "title, text"], {"text": "{name}: {text}"}),
    Case("template-attribute", "a.csv", CSV, ["no column 'text.__class__'"], {"text": "{text.__class__}"}),
    Case("template-index", "a.csv", CSV, ["no column 'text[0]'"], {"text": "{text[0]}"}),
    Case("template-width", "a.csv", CSV, ["no column 'text:>99999999999'"], {"text": "{text:>99999999999}"}),
    Case("template-open", "a.csv", CSV, ["'{' at character 8 has no partner"], {"text": "{text} {title"}),
    Case("template-close", "a.csv", CSV, ["'}' at character 7 has no partner"], {"text": "{text}}"}),
    Case("template-constant", "a.csv", CSV, ["names no column"], {"text": "{{hello}}"}),
    Case("no-completions", "a.csv", "prompt,completion\na,\nb,\nc,\n", ["a.csv: none of the 3 rows"]),
    Case("prompt-in-txt", "a.txt", "one\ntwo\n", ["plain text"], {"prompt": "p", "completion": "c"}),
    Case("messages-in-txt", "a.txt", "one\ntwo\n", ["a.txt", "no column 'messages'"], {"messages": "messages"}),
    # chat
    Case("unknown-role", "a.jsonl", GOOD_TURNS + turns(("wizard", "x")), ["a.jsonl:6", "turn 1", "'wizard'"]),
    Case("no-role", "a.jsonl", GOOD_TURNS + '{"messages": [{"content": "x"}]}', ["a.jsonl:6", "has no 'role'"]),
    Case("turn-is-text", "a.jsonl", GOOD_TURNS + '{"messages": ["x"]}', ["a.jsonl:6", "turn 1", "'x'"]),
    Case("turns-are-text", "a.jsonl", GOOD_TURNS + '{"messages": "hello"}', ["a.jsonl:6", "not JSON"]),
    Case("turns-are-number", "a.jsonl", GOOD_TURNS + '{"messages": 3}', ["a.jsonl:6", "Expected a list of turns"]),
    Case(
        "picture",
        "a.jsonl",
        GOOD_TURNS + turns(("user", [{"type": "image", "url": "x"}]), ("assistant", "a cat")),
        ["a.jsonl:6", "turn 1", "images"],
    ),
    Case("no-assistant", "a.jsonl", "".join(turns(("user", f"q{i}")) + "\n" for i in range(5)), ["none of the 5 rows"]),
    # splits and sources
    Case(
        "split-value",
        "a.csv",
        CSV.replace("title", "part"),
        ["a.csv:2", "'T0'", "train, eval"],
        {"split_column": "part"},
    ),
    Case("split-column", "a.csv", CSV, ["no column 'part' (data.split_column)"], {"split_column": "part"}),
    Case("group-column", "a.csv", CSV, ["no column 'who' (data.group)"], {"group": "who"}),
    Case(
        "one-group",
        "a.csv",
        "g,text\n" + "a,some words\na,other words\n",
        ["a.csv: 1 row or group"],
        {"group": "g", "text": "text"},
    ),
    Case("equal-rows", "a.csv", "title,text\n" + "x,the same words\n" * 5, ["equal rows cannot fill 2 splits"]),
    Case(
        "slice-of-texts",
        "a.csv",
        "id,text\n" + "".join(f"{i}x,words {i}\n" for i in range(1100)),
        ["more than 1000"],
        {"slice": "id"},
    ),
    Case("eval-path-missing", "a.csv", CSV, ["b.csv: no such file"], {"eval_path": "b.csv"}),
    Case(
        "bad-share",
        "a.jsonl",
        jsonl("{", "{", "{"),
        ["a.jsonl:5", "3 of 12 rows (25.0%)", "max_bad_rows: 0.25"],
        {"max_bad_rows": 0.1},
    ),
    # documents
    Case("not-a-pdf", "a.pdf", b"hello", ["a.pdf", "is not a PDF"]),
    Case("not-a-docx", "a.docx", b"hello", ["a.docx", "is not a Word document"]),
    Case("empty-html", "a.html", "<html><script>x = 1</script></html>", ["a.html: holds no text"]),
    Case("latin-1-md", "a.md", b"# caf\xe9\n", ["a.md:1", "0xE9"]),
    # hub names
    Case("hub-name", "a.csv", CSV, ["Expected hub:owner/name"], path="hub:a/b/c/d/e"),
    Case("all-rows-broken", "a.jsonl", "{,\n{,\n", ["a.jsonl:1", "broken JSON"], {"max_bad_rows": 1.0}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_is_refused(case: Case, prepared: Callable[..., Data], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("pypdf", "docx"):
        if case.name.endswith({"pypdf": "pdf", "docx": "docx"}[package]):
            pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    content = case.content.encode() if isinstance(case.content, str) else case.content
    file = tmp_path / case.name
    file.parent.mkdir(exist_ok=True)
    assert content is not None
    file.write_bytes(content)
    with pytest.raises(DataError) as caught:
        prepared(case.path or case.name, **case.values)
    message = str(caught.value)
    for part in case.says:
        assert part in message
    assert len(message) < 900
    assert "\n" not in message
    assert file.read_bytes() == content
    assert [entry.name for entry in tmp_path.iterdir()] == [case.name.split("/")[0]]


def test_there_are_enough() -> None:
    assert len(CASES) >= 60
    assert len({case.id for case in CASES}) == len(CASES)


RECIPES = [
    ({"path": "a.csv", "texts": "x"}, "Did you mean data.text?"),
    ({"path": "a.csv", "text": "x", "messages": "y"}, "a row is one of"),
    ({"path": "a.csv", "prompt": "x"}, "name both columns"),
    ({"path": "a.csv", "eval_fraction": 0.6, "test_fraction": 0.5}, "leave no training rows"),
    ({"path": "a.csv", "max_rows": -1}, "data.max_rows"),
    ({"path": "a.csv", "max_bad_rows": 2}, "data.max_bad_rows"),
    ({"path": []}, "empty list"),
    ({"path": [{"path": "a.csv", "weight": 0}]}, "greater than 0"),
    ({"path": "a.csv", "by": "word"}, "data.by"),
    ({"path": "a.csv", "long": "wrap"}, "data.long"),
]


@pytest.mark.parametrize(("values", "says"), RECIPES, ids=[says for _, says in RECIPES])
def test_a_bad_data_section_is_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says.replace("?", r"\?")):
        Recipe.parse({"model": {"name": "m"}, "data": values})


def test_a_folder_that_cannot_be_read_into_is_said(prepared: Callable[..., Data], tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(DataError, match="is an empty folder"):
        prepared(tmp_path / "x")


TOLERATED = [
    ("a.jsonl", jsonl("{", '{"text": 3}').decode(), {"bad_rows": 2, "rows_read": 11}),
    ("a.jsonl", jsonl('{"text": "café"}').replace("é".encode(), b"\xe9").decode("latin-1"), {"bad_rows": 1}),
    ("a.csv", CSV + "a,b,c\n", {"bad_rows": 1, "rows_read": 10}),
    ("a.csv", CSV + "é,b\n", {"bad_rows": 1, "rows_read": 10}),
    ("a.csv", CSV + "x,\n", {"empty": 1, "rows_read": 10}),
    ("a.csv", CSV + "a,b,,\n\n\n", {"rows_read": 10}),
]


@pytest.mark.parametrize(("name", "content", "counts"), TOLERATED)
def test_is_tolerated_and_counted(
    prepared: Callable[..., Data], tmp_path: Path, name: str, content: str, counts: dict[str, int]
) -> None:
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    account = prepared(tmp_path / name, text="text", max_bad_rows=0.2).account
    assert {key: getattr(account, key) for key in counts} == counts
    for kind in ("bad_rows", "empty"):
        assert bool(getattr(account.examples, kind)) == bool(getattr(account, kind))


def test_no_connection_says_which_local_file_would_do(
    tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tunesmith.data.read.hub import load_hub

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError) as caught:
        load_hub("hub:someone/netflix-shows:train", "the column description")
    message = str(caught.value)
    for part in ("hub:someone/netflix-shows:train", "data.path: netflix-shows.csv", "the column description"):
        assert part in message


def test_sections_of_cases_are_valid() -> None:
    for case in CASES:
        DataSection(path="x", **case.values)
