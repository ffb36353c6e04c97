"""Inputs that went wrong in practice, each in tests/cases, and what is right. Siblings of a kind stand beside it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunesmith.data import Data
from tunesmith.errors import DataError
from tunesmith.recipe import DataSection

CASES = Path(__file__).parents[1] / "cases"
Prepared = Callable[..., Data]


def texts_of(data: Data) -> list[str]:
    splits = (data.train, data.eval, data.test)
    return [documents.text(i) or "" for documents in splits for i in range(len(documents))]


def sizes(data: Data) -> tuple[int, int, int]:
    return len(data.train), len(data.eval), len(data.test)


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a case as the working directory, so that files are called as its recipe calls them."""

    def go(case: str) -> Path:
        shutil.copytree(CASES / case, tmp_path / case)
        monkeypatch.chdir(tmp_path / case)
        return tmp_path / case

    return go


def refused(prepared: Prepared, path: str, **values: Any) -> str:
    with pytest.raises(DataError) as caught:
        prepared(path, **values)
    return str(caught.value)


# ----------------------------------------------------------------------------------------------------- splits, sidecars


def test_a_folder_with_splits(prepared: Prepared, at: Callable[[str], Path]) -> None:
    at("folder_with_splits")
    data = prepared("d")
    assert sizes(data) == (12, 4, 4)
    assert {data.eval.row_name(i).split(":")[0] for i in range(4)} == {"d/valid.jsonl"}
    assert data.account.split_by == (
        "the files' names: train.jsonl to train on, valid.jsonl held out, test.jsonl for test"
    )
    assert "d: the files are read as splits" in data.account.notes[0]
    assert "data.eval_fraction is not used" in data.account.notes[0]


def test_splits_can_be_mixed(prepared: Prepared, at: Callable[[str], Path]) -> None:
    at("folder_with_splits")
    data = prepared("d", splits="ignore", eval_fraction=0.2, near_duplicates=False)
    assert sum(sizes(data)) == 20
    assert data.account.split_by.startswith("content hash")


def test_held_out_rows_of_their_own_replace_those_of_the_folder(prepared: Prepared, at: Callable[[str], Path]) -> None:
    at("folder_with_splits")
    data = prepared("d", eval_path="d/test.jsonl", near_duplicates=False)
    assert sizes(data) == (12, 4, 4)
    assert {data.eval.row_name(i).split(":")[0] for i in range(4)} == {"d/test.jsonl"}


def test_without_a_held_out_file_it_is_taken_from_the_training_rows(
    prepared: Prepared, at: Callable[[str], Path]
) -> None:
    (at("folder_with_splits") / "d" / "valid.jsonl").unlink()
    data = prepared("d", eval_fraction=0.3, near_duplicates=False)
    assert sum(sizes(data)[:2]) == 12
    assert len(data.eval) > 0
    assert len(data.test) == 4


def test_max_rows_counts_the_rows_that_are_trained_on(prepared: Prepared, at: Callable[[str], Path]) -> None:
    at("folder_with_splits")
    assert sizes(prepared("d", max_rows=5)) == (5, 4, 4)


def test_a_description_beside_the_data(prepared: Prepared, at: Callable[[str], Path]) -> None:
    folder = at("dataset_info_as_row") / "d"
    data = prepared("d")
    assert data.account.rows_read == 12
    assert "d/dataset_info.json: describes the data, not read as rows." in data.account.notes
    (folder / "stats.json").write_text(json.dumps({"rows": 12, "fields": {"text": "string"}}, indent=2))
    assert prepared("d").account.rows_read == 12
    (folder / "more.json").write_text(json.dumps({"text": "One more document, in a file of its own."}))
    assert prepared("d").account.rows_read == 13


def test_a_folder_of_descriptions_alone_is_told(prepared: Prepared, at: Callable[[str], Path]) -> None:
    (at("dataset_info_as_row") / "d" / "a.jsonl").unlink()
    assert "describes data" in refused(prepared, "d")


def test_documents_in_a_json_file_each(prepared: Prepared, tmp_path: Path, texts: list[str]) -> None:
    for number, text in enumerate(texts[:10]):
        (tmp_path / f"{number}.json").write_text(json.dumps({"body": text}))
    assert prepared(tmp_path).account.rows_read == 10


# ------------------------------------------------------------------------------------------------------- symbolic links


def linked(folder: Path) -> None:
    try:
        (folder / "d" / "more").symlink_to("../else", target_is_directory=True)
        (folder / "d" / "c.jsonl").symlink_to("../else/c.jsonl")
    except OSError as error:
        pytest.skip(f"no symbolic links here: {error}")


def test_a_linked_folder_is_read_as_a_glob_reads_it(prepared: Prepared, at: Callable[[str], Path]) -> None:
    linked(at("symlinked_subfolder"))
    data = prepared("d")
    assert (data.account.rows_read, len(data.account.files)) == (41, 4)
    assert prepared("d/**").account.rows_read == 41


@pytest.mark.parametrize("path", ["d", "d/**"])
def test_a_link_to_a_folder_above_is_named_and_not_followed(
    prepared: Prepared, at: Callable[[str], Path], path: str
) -> None:
    folder = at("symlinked_subfolder")
    linked(folder)
    (folder / "else" / "round").symlink_to("../d", target_is_directory=True)
    data = prepared(path)
    assert data.account.rows_read == 41
    assert data.account.notes == (
        "d/more/round: this link leads back to a folder that it lies in, so it is not followed.",
    )


def test_a_link_that_leads_nowhere_is_named(prepared: Prepared, at: Callable[[str], Path]) -> None:
    folder = at("symlinked_subfolder")
    linked(folder)
    (folder / "d" / "lost.jsonl").symlink_to("../gone.jsonl")
    assert prepared("d").account.notes == ("d/lost.jsonl: this link leads nowhere, so nothing is read by it.",)


# ------------------------------------------------------------------------------------------------------------------ csv


def test_line_ends_inside_a_csv_field(prepared: Prepared, at: Callable[[str], Path]) -> None:
    at("crlf_inside_csv_field")
    data = prepared("a.csv", text="text")
    assert not any("\r" in text for text in texts_of(data))
    assert any("\n" in text for text in texts_of(data))
    assert any("Windows line ends" in note for note in data.account.notes)


def test_line_ends_inside_json_are_as_they_are_meant_and_said(prepared: Prepared, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"line {i}\r\nand another"}) + "\n" for i in range(9)))
    data = prepared(path)
    assert all("\r\n" in text for text in texts_of(data))
    assert "Windows line ends" in data.account.warnings[0]


def test_three_equal_columns(prepared: Prepared, at: Callable[[str], Path]) -> None:
    at("three_equal_columns")
    data = prepared("a.csv", text="{text} / {text.2} / {text.3}")
    assert data.account.columns == ("id", "text", "text.2", "text.3")
    assert "text.2, text.3" in data.account.notes[0]


def test_a_name_in_the_header_is_never_given_to_another_column(prepared: Prepared, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,text,text.2,\n" + "".join(f"a {i},b {i},c {i},d {i}\n" for i in range(9)))
    data = prepared(path, text="{text.2}", near_duplicates=False)
    assert data.account.columns == ("text", "text.3", "text.2", "column_4")
    assert {text[0] for text in texts_of(data)} == {"c"}


HEADERLESS = {
    "numbers": "1,The first of some stories\n2,The second of some stories\n3,A third of them\n",
    "category": "pos,It was a fine film\nneg,It was a dull film\npos,Fine\n",
    "sentences": "A boy and a girl went home.\nThe sea was calm all day.\nNobody knew the way.\n",
}


@pytest.mark.parametrize("content", HEADERLESS.values(), ids=HEADERLESS)
def test_a_csv_without_a_header_is_noticed(prepared: Prepared, tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(content)
    assert "has no header that names text" in refused(prepared, str(path), text="text")
    section = DataSection(path=str(path))
    from tunesmith.data.read.inputs import find_inputs

    table = find_inputs(str(path), section)[0].open()
    assert "looks like data" in table.about.warnings[0]


HEADERS = {
    "plain": "title,text\nOne,A story\nTwo,Another\n",
    "question": "id,What did you like about the show that you saw last?\n1,The end\n2,The songs\n",
    "years": "country,population in 2019,text\nX,3,some words\nY,4,more words\n",
    "only a header": "title,text\n",
}


@pytest.mark.parametrize("content", HEADERS.values(), ids=HEADERS)
def test_a_header_is_not_taken_for_data(tmp_path: Path, content: str) -> None:
    from tunesmith.data.read.sniff_csv import Dialect, first_records, header_doubt

    assert header_doubt(first_records(content.splitlines(keepends=True), Dialect(","))) == ""


@pytest.mark.parametrize("line", ["sep=\t\n", '"sep=\t"\n', "SEP=\t\r\n"])
def test_a_line_that_names_the_tab(prepared: Prepared, tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(line + "title\ttext\n" + "".join(f"T{i}\tA story, number {i}\n" for i in range(9)), newline="")
    data = prepared(path, text="text", near_duplicates=False)
    assert data.account.delimiter == "\t"
    assert data.account.rows_read == 9


# ------------------------------------------------------------------------------------------------------------ encodings


def test_a_file_of_two_encodings_has_a_way_on(prepared: Prepared, at: Callable[[str], Path]) -> None:
    at("mixed_encodings")
    plain = {"text": "text", "near_duplicates": False}
    said = refused(prepared, "a.csv", **plain)
    assert said.startswith("a.csv:42: data row 41: byte ")
    assert "41 of the file's 42 lines are UTF-8 and this line is not" in said
    assert "Read as cp1252 it says" in said
    assert "fallback_encoding: cp1252" in said
    assert "set encoding" not in said
    data = prepared("a.csv", fallback_encoding="cp1252", **plain)
    assert sum(sizes(data)) == data.account.rows_read == 41
    assert data.account.fallback_lines == 1
    assert "1 of its lines read as cp1252" in data.account.notes[0]
    assert any("Tórshavn waits for Jørgen" in text for text in texts_of(data))
    good = {text for text in texts_of(data) if "Tórshavn" not in text}
    assert good == set(texts_of(prepared("a.csv", max_bad_rows=0.026, **plain)))


def test_advice_never_goes_round_in_circles(prepared: Prepared, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("".join(f"Zoë number {i}\n" for i in range(20)).encode() + b"J\xf8rgen \x81\n")
    asked = {"near_duplicates": False}
    assert "fallback_encoding: latin-1" in refused(prepared, str(path), **asked)
    assert "encoding: utf-8 and fallback_encoding: latin-1" in refused(prepared, str(path), encoding="cp1252", **asked)
    assert prepared(path, encoding="utf-8", fallback_encoding="latin-1", **asked).account.fallback_lines == 1
    assert "data.fallback_encoding: 'latin-11'" in refused(prepared, str(path), fallback_encoding="latin-11", **asked)


def test_a_json_array_of_two_encodings(prepared: Prepared, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    rows = [json.dumps({"text": f"Zoë number {i}"}, ensure_ascii=False).encode() for i in range(20)]
    path.write_bytes(b"[" + b",\n".join([*rows, b'{"text": "J\xf8rgen"}']) + b"]")
    data = prepared(path, fallback_encoding="cp1252", near_duplicates=False)
    assert "Jørgen" in texts_of(data)
    assert data.account.fallback_lines == 1


# ----------------------------------------------------------------------------------------------------------------- json


def test_an_integer_of_5000_digits(prepared: Prepared, at: Callable[[str], Path]) -> None:
    folder = at("integer_5000_digits")
    assert prepared("a.jsonl").account.rows_read == 13
    rows = [line for line in (folder / "a.jsonl").read_text().splitlines() if line.strip()]
    (folder / "b.json").write_text("[" + ",\n".join(rows) + "]")
    data = prepared("b.json", text="{text} {id}", near_duplicates=False, max_length=20_000)
    assert data.account.rows_read == 13
    assert any("9" * 100 in text or len(text) > 5000 for text in texts_of(data))


COLUMN_ORIENTED = {
    "columns": {"text": {"0": "a b", "1": "c d"}, "n": {"0": 1, "1": 2}},
    "index": {"0": {"text": "a b", "n": 1}, "1": {"text": "c d", "n": 2}},
    "split": {"columns": ["text", "n"], "index": [0, 1], "data": [["a b", 1], ["c d", 2]]},
    "list": {"text": ["a b", "c d"], "n": [1, 2]},
}


def test_a_frame_that_pandas_wrote_by_column(prepared: Prepared, at: Callable[[str], Path]) -> None:
    at("pandas_to_json_columns")
    said = refused(prepared, "a.json")
    assert "a.json: is a table written by column" in said
    assert "orient='records', lines=True" in said


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("value", COLUMN_ORIENTED.values(), ids=COLUMN_ORIENTED)
def test_other_orientations_of_pandas(prepared: Prepared, tmp_path: Path, value: object, indent: int | None) -> None:
    (tmp_path / "a.json").write_text(json.dumps(value, indent=indent))
    assert "orient='records', lines=True" in refused(prepared, str(tmp_path / "a.json"))


# --------------------------------------------------------------------------------------------------------- one document


def test_one_long_document(prepared: Prepared, at: Callable[[str], Path]) -> None:
    at("one_long_document")
    data = prepared("a.txt", by="file", eval_fraction=0)
    assert len(data.train) > 10
    assert sizes(data)[1:] == (0, 0)
    assert data.account.split_by == "nothing held out (data.eval_fraction: 0)"
    assert "data.eval_fraction: 0 to train on it alone" in refused(prepared, "a.txt", by="file")


def test_one_row_and_held_out_rows_of_their_own(prepared: Prepared, at: Callable[[str], Path]) -> None:
    at("eval_one_row")
    assert sizes(prepared("one1.jsonl", eval_fraction=0)) == (1, 0, 0)
    Path("held.jsonl").write_text('{"text": "Something else entirely."}\n')
    assert sizes(prepared("one1.jsonl", eval_path="held.jsonl")) == (1, 1, 0)
