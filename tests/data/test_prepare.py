"""prepare(): from files to splits, with an account of every row."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from tunesmith.data import Data, TokenizedDocuments, cache, prepare
from tunesmith.data.arrays import ArrayFile, load_array
from tunesmith.data.tokens import tokenize
from tunesmith.errors import DataError
from tunesmith.models.tokenizer import TextTokenizer
from tunesmith.recipe import DataSection

Prepared = Callable[..., Data]


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def texts_of(documents: TokenizedDocuments) -> list[str]:
    return [documents.text(index) or "" for index in range(len(documents))]


def all_texts(data: Data) -> list[str]:
    return texts_of(data.train) + texts_of(data.eval) + texts_of(data.test)


def test_documents_are_start_text_end(prepared: Prepared, shows_csv: Path, tokenizer: TextTokenizer) -> None:
    data = prepared(shows_csv, text="description")
    with shows_csv.open(newline="") as file:
        rows = {row["description"] for row in csv.DictReader(file)}
    assert set(all_texts(data)) == rows
    for documents in (data.train, data.eval):
        for index in range(len(documents)):
            ids, supervised = documents[index]
            assert ids[0] == tokenizer.start_id
            assert ids[-1] == tokenizer.end_id
            assert not supervised[0]
            assert supervised[1:].all()
            assert tokenizer.decode(ids[1:-1].tolist()) == documents.text(index)
            assert documents.num_bytes[index] == len((documents.text(index) or "").encode())
    assert data.train.supervised is None
    assert data.train.num_targets == len(data.train.tokens) - len(data.train)


def test_rows_are_named_as_a_spreadsheet_shows_them(prepared: Prepared, shows_csv: Path) -> None:
    documents = prepared(shows_csv, text="description").train
    with shows_csv.open(newline="") as file:
        rows = [row["description"] for row in csv.DictReader(file)]
    for index in (0, 5, len(documents) - 1):
        number = int(documents.row_name(index).removeprefix(f"{shows_csv}:"))
        assert rows[number - 2] == documents.text(index)


def test_account_counts_every_row(prepared: Prepared, tmp_path: Path, texts: list[str]) -> None:
    rows = [{"text": text} for text in texts]
    rows[3]["text"] = " \n"
    rows[9]["text"] = texts[8]
    data = prepared(write_rows(tmp_path / "a.jsonl", rows), near_duplicates=False)
    account = data.account
    assert account.rows_read == 60
    assert account.empty == 1
    assert account.duplicates == 1
    assert account.bad_rows == 0
    assert sum(split.documents for split in account.splits.values()) == 59
    assert account.splits["train"].tokens == len(data.train.tokens)
    assert account.splits["train"].targets == data.train.num_targets
    assert sum(account.length_histogram.counts) == len(data.train)
    assert len(account.length_histogram.edges) == len(account.length_histogram.counts) + 1
    assert account.how == "text in column 'text', recognised by its name"
    json.dumps(account.to_json())


def test_adding_rows_moves_none(prepared: Prepared, tmp_path: Path, texts: list[str]) -> None:
    few = prepared(write_rows(tmp_path / "few.jsonl", [{"text": text} for text in texts[:40]]), test_fraction=0.2)
    more = prepared(
        write_rows(tmp_path / "more.jsonl", [{"text": text} for text in reversed(texts)]), test_fraction=0.2
    )
    for before, after in ((few.train, more.train), (few.eval, more.eval), (few.test, more.test)):
        assert set(texts_of(before)) <= set(texts_of(after))
        assert len(before)


def test_seed_changes_the_split(prepared: Prepared, tmp_path: Path, texts: list[str]) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    first, second, again = (prepared(path, seed=seed, eval_fraction=0.3) for seed in (1, 2, 1))
    assert texts_of(first.eval) == texts_of(again.eval)
    assert texts_of(first.eval) != texts_of(second.eval)


def test_equal_rows_stay_on_one_side(prepared: Prepared, tmp_path: Path, texts: list[str]) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"text": text} for text in texts + texts[:30] + texts[:10]])
    data = prepared(path, eval_fraction=0.4, near_duplicates=False)
    assert not set(texts_of(data.train)) & set(texts_of(data.eval))
    assert data.account.duplicates == 40
    assert data.account.straddling_duplicates == 0


def test_nearly_equal_rows_stay_on_one_side(prepared: Prepared, tmp_path: Path, texts: list[str]) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"text": text} for text in texts + [f"{text}!" for text in texts]])
    data = prepared(path, eval_fraction=0.4)
    held_out = {text.rstrip("!") for text in texts_of(data.eval)}
    assert held_out
    assert not held_out & {text.rstrip("!") for text in texts_of(data.train)}


def test_groups_stay_on_one_side(prepared: Prepared, tmp_path: Path, texts: list[str]) -> None:
    rows = [{"text": text, "author": f"a{i % 9}"} for i, text in enumerate(texts)]
    rows[1]["text"] = rows[0]["text"]  # equal text of two authors joins their groups
    data = prepared(write_rows(tmp_path / "a.jsonl", rows), group="author", eval_fraction=0.4)
    authors = {row["text"]: row["author"] for row in rows}
    trained = {authors[text] for text in texts_of(data.train)}
    held_out = {authors[text] for text in texts_of(data.eval)}
    assert trained
    assert held_out
    assert not trained & held_out
    assert ("a0" in trained) == ("a1" in trained)


def test_strata_keep_their_share(prepared: Prepared, tmp_path: Path, texts: list[str]) -> None:
    rows = [{"text": text, "kind": "rare" if i % 6 == 0 else "common"} for i, text in enumerate(texts)]
    data = prepared(write_rows(tmp_path / "a.jsonl", rows), stratify="kind", slice="kind", eval_fraction=0.2)
    assert data.eval.slices is not None
    assert data.eval.slices.count("rare") == 2
    assert data.eval.slices.count("common") == 10


def test_split_column(prepared: Prepared, tmp_path: Path, texts: list[str]) -> None:
    names = ["train", "validation", "Test", "dev"]
    rows = [{"text": text, "part": names[i % 4]} for i, text in enumerate(texts)]
    data = prepared(write_rows(tmp_path / "a.jsonl", rows), split_column="part")
    assert [len(data.train), len(data.eval), len(data.test)] == [15, 30, 15]
    assert set(texts_of(data.test)) == {row["text"] for row in rows if row["part"] == "Test"}


def test_split_column_without_eval_takes_it_from_train(prepared: Prepared, tmp_path: Path, texts: list[str]) -> None:
    rows = [{"text": text, "part": "test" if i % 3 == 0 else "train"} for i, text in enumerate(texts)]
    data = prepared(write_rows(tmp_path / "a.jsonl", rows), split_column="part", eval_fraction=0.2)
    assert len(data.test) == 20
    assert 0 < len(data.eval) < 20
    assert len(data.train) + len(data.eval) == 40


def test_held_out_files(prepared: Prepared, tmp_path: Path, texts: list[str]) -> None:
    train = write_rows(tmp_path / "train.jsonl", [{"text": text} for text in texts[:40]])
    held_out = write_rows(tmp_path / "eval.jsonl", [{"text": text} for text in texts[39:50]])
    test = write_rows(tmp_path / "test.jsonl", [{"text": text} for text in texts[50:]])
    data = prepared(train, eval_path=str(held_out), test_path=str(test))
    assert texts_of(data.train) == texts[:40]
    assert texts_of(data.eval) == texts[39:50]
    assert texts_of(data.test) == texts[50:]
    assert data.account.straddling_duplicates == 1
    assert data.eval.row_name(0) == f"{held_out}:1"


def test_small_takes_about_100_and_20_rows(prepared: Prepared, shows_csv: Path) -> None:
    data = prepared(shows_csv, text="description", small=True)
    assert (len(data.train), len(data.eval)) == (100, 20)
    whole = prepared(shows_csv, text="description")
    assert set(texts_of(data.train)) <= set(texts_of(whole.train))


def test_max_rows_reads_no_further(prepared: Prepared, tmp_path: Path, texts: list[str]) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    path.write_text(path.read_text() + "{broken\n")
    data = prepared(path, max_rows=50)
    assert sorted(all_texts(data)) == sorted(texts[:50])


def test_weights_repeat_and_thin_training_rows(prepared: Prepared, tmp_path: Path, texts: list[str]) -> None:
    first = write_rows(tmp_path / "a.jsonl", [{"text": text} for text in texts[:20]])
    second = write_rows(tmp_path / "b.jsonl", [{"text": text} for text in texts[20:]])
    sources = [{"path": str(first), "weight": 2.0}, {"path": str(second), "weight": 0.5}]
    data = prepared(sources, eval_fraction=0.2)
    trained = texts_of(data.train)
    assert all(trained.count(text) == 2 for text in trained if text in texts[:20])
    assert all(trained.count(text) == 1 for text in trained if text in texts[20:])
    assert 10 < sum(text in texts[20:] for text in trained) < 30
    assert len(set(texts_of(data.eval))) == len(data.eval)


def test_max_rows_is_shared_by_weight(prepared: Prepared, tmp_path: Path, texts: list[str]) -> None:
    first = write_rows(tmp_path / "a.jsonl", [{"text": text} for text in texts[:30]])
    second = write_rows(tmp_path / "b.jsonl", [{"text": text} for text in texts[30:]])
    sources = [{"path": str(first), "weight": 1}, {"path": str(second), "weight": 3}]
    account = prepared(sources, max_rows=20).account
    assert [file.rows for file in account.files] == [5, 15]


def test_a_second_call_reads_the_cache(
    prepared: Prepared, tmp_path: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    first = prepared(path)
    monkeypatch.setattr(TextTokenizer, "encode_batch", None)
    second = prepared(path)
    assert second.account == first.account
    assert np.array_equal(second.train.tokens, first.train.tokens)
    assert texts_of(second.eval) == texts_of(first.eval)


def test_processes_that_start_together_tokenise_once(
    tokenizer: TextTokenizer, tmp_path: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    section = DataSection(path=str(path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    context = multiprocessing.get_context("fork")
    start, told = context.Barrier(3), context.SimpleQueue()

    def one() -> None:
        stages: list[str] = []
        start.wait()
        data = prepare(section, tokenizer, 128, progress=lambda stage, *_: stages.append(stage))
        told.put((stages.count("tokenising rows") > 0, data.fingerprint))

    children = [context.Process(target=one) for _ in range(3)]
    for child in children:
        child.start()
    found = [told.get() for _ in children]
    for child in children:
        child.join()
    assert sorted(did for did, _ in found) == [False, False, True]
    assert len({fingerprint for _, fingerprint in found}) == 1


def test_what_is_whole_is_read_by_many_at_once(
    prepared: Prepared, tmp_path: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = write_rows(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    first = prepared(path)
    (lock,) = (cache.cache_dir() / "data").glob("*.lock")
    with FileLock(lock):
        assert prepared(path).fingerprint == first.fingerprint


def test_what_is_damaged_is_made_again(
    prepared: Prepared, tmp_path: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = write_rows(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    first = prepared(path)
    (entry,) = (entry for entry in (cache.cache_dir() / "data").iterdir() if entry.is_dir())
    for damaged in ("text.npy", "account.json"):
        (entry / damaged).write_bytes(b"not this")
        assert prepared(path).fingerprint == first.fingerprint


def test_changed_content_or_recipe_is_not_taken_from_the_cache(
    prepared: Prepared, tmp_path: Path, texts: list[str]
) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    first = prepared(path)
    assert prepared(path, seed=8).fingerprint != first.fingerprint
    write_rows(path, [{"text": text} for text in reversed(texts)])
    assert prepared(path).fingerprint != first.fingerprint
    moved = write_rows(tmp_path / "b.jsonl", [{"text": text} for text in texts])
    assert prepared(moved).fingerprint == first.fingerprint


def test_a_killed_run_goes_on_and_gives_the_same(
    tokenizer: TextTokenizer, tmp_path: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    section = DataSection(path=str(path))
    monkeypatch.setattr(tokenize, "BATCH_ROWS", 5)
    monkeypatch.setattr(tokenize, "_SAVE_BATCHES", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "whole"))
    whole = prepare(section, tokenizer, 128)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "killed"))

    def die_half_way(stage: str, done: int, total: int | None) -> None:
        if stage == "tokenising rows" and done > 30:
            os.kill(os.getpid(), signal.SIGKILL)

    child = multiprocessing.get_context("fork").Process(
        target=prepare, args=(section, tokenizer, 128), kwargs={"progress": die_half_way}
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    said: list[tuple[str, int, int | None]] = []
    data = prepare(section, tokenizer, 128, progress=lambda *stage: said.append(stage))
    assert [stage for stage in said if stage[0] != "tokenising rows"] == [("comparing rows", 0, 60)]
    assert said[1] == ("tokenising rows", 30, 60)  # the batches before the kill are not tokenised again
    assert said[-1] == ("tokenising rows", 60, 60)
    assert data.fingerprint == whole.fingerprint
    assert data.account == whole.account
    assert texts_of(data.train) == texts_of(whole.train)


def test_an_array_file_keeps_what_was_counted_and_cuts_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    file = ArrayFile(path, np.int32)
    file.append([1, 2, 3, 4])
    file.flush()  # killed here: the header still says none
    again = ArrayFile(path, np.int32, 2)
    again.append([7])
    again.close()
    file.file.close()
    assert np.load(path).tolist() == [1, 2, 7]
    assert load_array(path).tolist() == [1, 2, 7]


def test_a_failed_run_leaves_nothing_behind(prepared: Prepared, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n{"text": 3}\n')
    before = {entry.name for entry in (cache.cache_dir() / "data").glob("*.partial")}
    with pytest.raises(DataError, match=r"a.jsonl:2: column 'text' holds a number \(3\)"):
        prepared(path)
    assert {entry.name for entry in (cache.cache_dir() / "data").glob("*.partial")} == before


def test_the_cache_forgets_what_was_not_used_for_longest(
    prepared: Prepared, tmp_path: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = write_rows(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    prepared(path, seed=1)
    root = cache.cache_dir() / "data"
    (old,) = (entry for entry in root.iterdir() if entry.is_dir())
    os.utime(old, (1, 1))
    monkeypatch.setattr(cache, "MAX_BYTES", 1)
    prepared(path, seed=2)
    assert not old.exists()
    prepared(path, seed=3)
    assert len([entry for entry in root.iterdir() if entry.is_dir()]) == 2


@pytest.mark.parametrize("rule", ["split", "truncate", "drop"])
def test_long_documents_are_accounted_for(
    prepared: Prepared, tmp_path: Path, texts: list[str], tokenizer: TextTokenizer, rule: str
) -> None:
    rows = [{"text": text} for text in texts]
    rows[0]["text"] = " ".join(texts)
    data = prepared(write_rows(tmp_path / "a.jsonl", rows), long=rule, near_duplicates=False, max_length=100)
    total = sum(len(ids) + 1 for ids in tokenizer.encode_batch([row["text"] for row in rows]))
    trained = data.train.num_targets + data.eval.num_targets
    assert data.train.lengths.max() <= 100
    assert trained + data.account.truncated_tokens == total
    assert (data.account.truncated_tokens == 0) == (rule == "split")
    size = sum(len(row["text"].encode()) for row in rows)
    if rule == "split":
        assert int(data.train.num_bytes.sum() + data.eval.num_bytes.sum()) == size
        whole = "".join(text for text in all_texts(data) if text in rows[0]["text"] and text not in texts)
        assert whole == rows[0]["text"]
        assert data.train.supervised is not None or data.eval.supervised is not None


def test_a_long_document_can_be_an_error(prepared: Prepared, tmp_path: Path, texts: list[str]) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"text": text} for text in [*texts, " ".join(texts)]])
    with pytest.raises(DataError, match=r"a.jsonl:61: \d+ tokens.*train.max_length is 100"):
        prepared(path, long="error", max_length=100)


def test_only_long_documents_leave_nothing_to_train(prepared: Prepared, tmp_path: Path, texts: list[str]) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    with pytest.raises(DataError, match=r"0 tokens would be trained.*longer than train.max_length"):
        prepared(path, long="drop", max_length=8)


def test_the_only_held_out_row_is_chosen_even_in_a_tiny_file(prepared: Prepared, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"text": "one thing"}, {"text": "quite another"}])
    data = prepared(path, eval_fraction=0.01)
    assert (len(data.train), len(data.eval)) == (1, 1)
    assert len(prepared(path, eval_fraction=0).eval) == 0
