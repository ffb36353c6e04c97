"""Splitting loses nothing and teaches no false beginning or ending; the other rules count what they lose."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.tokens.long import LongCounts, LongDocuments, Piece, token_bytes
from tunesmith.errors import DataError

SENTENCES = [
    "A boy finds a map in the attic.",
    'His sister says, "We leave at dawn!"',
    "They walk for three days through the fog, and nobody in the village believes them.",
    "Is the lighthouse real?",
    "Only the old sailor knows, approx. two miles from the shore, what the light means.",
]


@pytest.fixture(scope="module")
def tokenizer(tiny_llama: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_llama)


def _document(tokenizer: Any, text: str) -> list[int]:
    return [0, *tokenizer(text, add_special_tokens=False)["input_ids"], 0]


def _split(tokenizer: Any, text: str, max_length: int) -> tuple[list[int], list[Piece], LongCounts]:
    long = LongDocuments("split", max_length, tokenizer)
    ids = _document(tokenizer, text)
    return ids, long.fit(ids, None, "a.csv:2"), long.counts


def _texts(tokenizer: Any, ids: list[int], pieces: list[Piece]) -> list[str]:
    return [tokenizer.decode([i for i in ids[p.begin : p.end] if i != 0]) for p in pieces]


def test_a_document_that_fits_is_left_as_it_is(tokenizer: Any) -> None:
    ids, pieces, counts = _split(tokenizer, "A short one.", 512)
    assert len(pieces) == 1
    assert pieces[0].ids.tolist() == ids
    assert pieces[0].supervised.tolist() == [False] + [True] * (len(ids) - 1)
    assert counts == LongCounts(num_documents=1)


def test_pieces_end_with_sentences_and_join_to_the_document(tokenizer: Any) -> None:
    text = " ".join(SENTENCES * 4)
    ids, pieces, counts = _split(tokenizer, text, 128)
    texts = _texts(tokenizer, ids, pieces)
    assert "".join(texts) == text
    assert len(pieces) > 3
    assert all(piece.strip() in " ".join(SENTENCES * 4) for piece in texts)
    for piece in texts:
        assert any(piece.strip().endswith(sentence) for sentence in SENTENCES), piece
        assert any(piece.strip().startswith(sentence) for sentence in SENTENCES), piece
    assert counts.num_pieces == len(pieces)
    assert counts.num_long == 1
    assert counts.lost_targets == 0


def test_every_token_is_a_target_once_and_only_the_last_piece_ends(tokenizer: Any) -> None:
    ids, pieces, counts = _split(tokenizer, " ".join(SENTENCES * 6), 64)
    assert [token for piece in pieces for token in piece.ids[piece.supervised].tolist()] == ids[1:]
    assert [piece.ids[-1] == 0 for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    for before, piece in itertools.pairwise(pieces):
        context = int(np.argmax(piece.supervised))
        assert context == 1 + 64 // 8, "a start and an eighth of repeated context, none of it a target"
        assert piece.ids[0] == 0
        assert piece.ids[1:context].tolist() == before.ids[-(context - 1) :].tolist()
    assert counts.context_tokens == 8 * (len(pieces) - 1)


def test_pieces_are_about_equally_long(tokenizer: Any) -> None:
    _, pieces, _ = _split(tokenizer, "word " * 300, 100)
    lengths = [piece.end - piece.begin for piece in pieces]
    assert max(lengths) - min(lengths) < 25, lengths


def test_without_sentences_words_stay_whole(tokenizer: Any) -> None:
    text = "lighthouse " * 60
    ids, pieces, _ = _split(tokenizer, text.strip(), 50)
    assert "".join(_texts(tokenizer, ids, pieces)) == text.strip()
    assert all(set(piece.split()) == {"lighthouse"} for piece in _texts(tokenizer, ids, pieces))


def test_characters_of_several_bytes_stay_whole(tokenizer: Any) -> None:
    text = "灯台への道は長い" * 20
    ids, pieces, _ = _split(tokenizer, text, 40)
    assert "".join(_texts(tokenizer, ids, pieces)) == text
    assert len(pieces) > 5


def test_wide_punctuation_ends_a_sentence_without_a_space(tokenizer: Any) -> None:
    sentence = "灯台への道は長い。"
    ids, pieces, _ = _split(tokenizer, sentence * 8, 120)
    assert all(piece.replace(sentence, "") == "" for piece in _texts(tokenizer, ids, pieces))


def test_truncation_counts_its_lost_targets_and_teaches_no_end(tokenizer: Any) -> None:
    long = LongDocuments("truncate", 20, tokenizer)
    ids = _document(tokenizer, " ".join(SENTENCES))
    (piece,) = long.fit(ids, None, "a.csv:2")
    assert piece.ids.tolist() == ids[:20]
    assert long.counts == LongCounts(num_documents=1, num_long=1, num_truncated=1, lost_targets=len(ids) - 20)


def test_truncation_that_leaves_no_target_drops_the_row(tokenizer: Any) -> None:
    long = LongDocuments("truncate", 20, tokenizer)
    ids = _document(tokenizer, " ".join(SENTENCES))
    completion_only = np.zeros(len(ids), dtype=bool)
    completion_only[-10:] = True
    assert long.fit(ids, completion_only, "a.csv:2") == []
    assert long.counts == LongCounts(
        num_documents=1, num_long=1, num_dropped=1, lost_targets=10, unread_tokens=len(ids) - 11
    )


def test_drop_counts_the_row(tokenizer: Any) -> None:
    long = LongDocuments("drop", 20, tokenizer)
    ids = _document(tokenizer, " ".join(SENTENCES))
    assert long.fit(ids, None, "a.csv:2") == []
    assert len(long.fit(_document(tokenizer, "A short one."), None, "a.csv:3")) == 1
    assert long.counts == LongCounts(num_documents=2, num_long=1, num_dropped=1, lost_targets=len(ids) - 1)


def test_error_names_the_row_the_length_the_limit_and_the_options(tokenizer: Any) -> None:
    ids = _document(tokenizer, " ".join(SENTENCES))
    with pytest.raises(DataError, match=rf"a\.csv:2: {len(ids)} tokens.*max_length is 20 and.*split.*truncate or drop"):
        LongDocuments("error", 20, tokenizer).fit(ids, None, "a.csv:2")


def test_pieces_without_a_target_are_left_out(tokenizer: Any) -> None:
    long = LongDocuments("split", 32, tokenizer)
    ids = _document(tokenizer, " ".join(SENTENCES * 3))
    completion_only = np.zeros(len(ids), dtype=bool)
    completion_only[-10:] = True
    pieces = long.fit(ids, completion_only, "a.csv:2")
    assert [token for piece in pieces for token in piece.ids[piece.supervised].tolist()] == ids[-10:]
    assert len(pieces) <= 2
    assert long.counts.lost_targets == long.counts.context_tokens == 0
    assert sum(len(piece.ids) - 1 for piece in pieces) + long.counts.unread_tokens == len(ids) - 1


def test_counts_add_up() -> None:
    total = LongCounts(num_documents=2, lost_targets=5) + LongCounts(num_documents=1, num_long=1)
    assert total.account().num_documents == 3
    assert total.account().lost_targets == 5


def test_a_limit_without_room_for_a_token_is_refused(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="max_length"):
        LongDocuments("split", 1, tokenizer)


def test_bytes_of_byte_level_and_sentencepiece_tokens() -> None:
    assert token_bytes(["Ġ", "Ġthe", "Ċ", "æ", "<|endoftext|>"]) == [b" ", b" the", b"\n", b"\xe6", b"<|endoftext|>"]
    assert token_bytes(["▁the", "<0xE6>", "ing", None]) == [b" the", b"\xe6", b"ing", b""]


@settings(max_examples=150, deadline=None)
@given(
    text=st.text(alphabet=st.sampled_from('abc ABC.!?"\n。灯台é'), max_size=300),
    max_length=st.integers(2, 90),
    masked=st.integers(0, 60),
)
def test_any_text_any_limit_loses_nothing(tokenizer: Any, text: str, max_length: int, masked: int) -> None:
    ids = _document(tokenizer, text)
    supervised = np.arange(len(ids)) > masked
    long = LongDocuments("split", max_length, tokenizer)
    pieces = long.fit(ids, supervised, "a.csv:2")
    targets = [token for piece in pieces for token in piece.ids[piece.supervised].tolist()]
    assert targets == np.array(ids)[supervised].tolist()
    assert all(2 <= len(piece.ids) <= max_length for piece in pieces)
    assert all(piece.ids[0] == 0 and not piece.supervised[0] for piece in pieces)
