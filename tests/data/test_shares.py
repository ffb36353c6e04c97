"""Shares of the training rows: nested, whole rows, nothing held out moved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tunesmith.data import Data, TokenizedDocuments, prepare
from tunesmith.data.shares import count_rows, share_of
from tunesmith.models.find import find_model
from tunesmith.models.tokenizer import load_tokenizer
from tunesmith.recipe import DataSection


@pytest.fixture(scope="module")
def data(tiny_llama: Path, shows_csv: Path) -> Data:
    section = DataSection(path=str(shows_csv), text="description", slice="genre", max_rows=60, eval_fraction=0.2)
    return prepare(section, load_tokenizer(find_model(str(tiny_llama))), 512)


def texts(documents: TokenizedDocuments) -> list[str | None]:
    return [documents.text(number) for number in range(len(documents))]


def test_a_smaller_share_is_part_of_every_greater_one(data: Data) -> None:
    few, more, all_rows = (share_of(data, rows, seed=7) for rows in (8, 20, count_rows(data)))
    assert (len(few.train), len(more.train)) == (8, 20)
    assert set(texts(few.train)) < set(texts(more.train)) < set(texts(all_rows.train))
    assert texts(all_rows.train) == texts(data.train)
    assert all_rows.fingerprint == data.fingerprint


def test_the_last_rows_are_others(data: Data) -> None:
    first, last = (share_of(data, 20, seed=7, last=side) for side in (False, True))
    assert not set(texts(first.train)) & set(texts(last.train))
    assert texts(share_of(data, 8, seed=8).train) != texts(share_of(data, 8, seed=7).train)


def test_what_is_held_out_stays_and_the_account_tells_the_share(data: Data) -> None:
    part = share_of(data, 20, seed=7)
    assert part.eval is data.eval
    assert part.account.splits["eval"] == data.account.splits["eval"]
    told = part.account.splits["train"]
    assert (told.documents, told.tokens, told.targets) == (20, len(part.train.tokens), part.train.num_targets)
    assert part.fingerprint == part.account.fingerprint != data.fingerprint
    assert share_of(data, 20, seed=7).fingerprint == part.fingerprint


def test_documents_are_taken_as_they_are(data: Data) -> None:
    chosen = np.array([5, 2, 11])
    taken = data.train.take(chosen)
    for place, number in enumerate(chosen.tolist()):
        for mine, theirs in zip(taken[place], data.train[number], strict=True):
            assert np.array_equal(mine, theirs)
        assert taken.text(place) == data.train.text(number)
        assert taken.row_name(place) == data.train.row_name(number)
    assert data.train.slices is not None
    assert taken.slices == [data.train.slices[number] for number in chosen.tolist()]


def test_a_row_of_several_documents_is_taken_whole() -> None:
    documents = TokenizedDocuments.from_lists([([1, number, 2], None) for number in range(12)])
    parted = replace(documents, rows=np.arange(12) // 3)
    assert parted.supervised is None
    masked = TokenizedDocuments.from_lists([([1, 5, 2], [False, number % 2 == 0, True]) for number in range(4)])
    assert masked.take(np.array([1, 2])).targets_per_document.tolist() == [1, 2]
    data = Data(parted, documents, documents, account=None, fingerprint="", near=None)
    assert count_rows(data) == 4
