"""Ids and masks: what is supervised is what was meant to be learned, however it is encoded."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data import Data, prepare
from tunesmith.data.rows.pieces import CONTEXT, MARK, TARGET, Pieces
from tunesmith.data.tokens import workers as encode_workers
from tunesmith.data.tokens.encode import Encoder
from tunesmith.data.tokens.words import WordEncoder
from tunesmith.models.tokenizer import TextTokenizer
from tunesmith.recipe import DataSection

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
ROWS = st.lists(
    st.lists(st.tuples(TEXT, st.sampled_from([CONTEXT, TARGET])), min_size=1, max_size=4), min_size=1, max_size=5
)


def supervised_text(tokenizer: TextTokenizer, ids: np.ndarray, supervised: np.ndarray) -> str:
    return tokenizer.decode(ids[supervised].tolist())


@settings(deadline=None, max_examples=100)
@given(rows=ROWS)
def test_masks_are_what_was_marked(tokenizer: TextTokenizer, rows: list[Pieces]) -> None:
    encoded = Encoder.of(tokenizer, chat=False).encode(rows)
    end = 0
    for pieces, length in zip(rows, encoded.lengths.tolist(), strict=True):
        ids, supervised = encoded.tokens[end : end + length], encoded.supervised[end : end + length]
        end += length
        assert ids[0] == tokenizer.start_id
        assert ids[-1] == tokenizer.end_id
        assert not supervised[0]
        assert supervised[-1]
        meant = b"".join(text.encode() for text, flag in pieces if flag)
        assert supervised_text(tokenizer, ids[:-1], supervised[:-1]) == meant.decode()
        assert tokenizer.decode(ids[1:-1].tolist()) == "".join(text for text, _ in pieces)
    assert end == len(encoded.tokens)


@settings(deadline=None, max_examples=200)
@given(texts=st.lists(TEXT, min_size=1, max_size=6))
def test_words_give_the_ids_of_whole_texts(tokenizer: TextTokenizer, texts: list[str]) -> None:
    encoder = WordEncoder(tokenizer.encode_batch)
    for _ in range(2):  # the second time from the dictionary
        ids, lengths = encoder.encode(texts)
        assert ids.tolist() == [token for part in tokenizer.encode_batch(texts) for token in part]
        assert lengths.tolist() == [len(part) for part in tokenizer.encode_batch(texts)]
    assert not encoder.failed
    assert encoder.words


def test_words_are_not_used_where_they_change_ids() -> None:
    def joined(texts: list[str]) -> list[list[int]]:
        return [[len(text)] for text in texts]

    encoder = WordEncoder(joined)  # type: ignore[arg-type]
    assert encoder.encode(["one two"])[0].tolist() == [7]
    assert not encoder._is_splittable


def test_words_are_given_up_when_a_batch_differs(tokenizer: TextTokenizer) -> None:
    def odd(texts: list[str]) -> list[list[int]]:
        return [
            [1] if text == "strange text" else ids
            for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True)
        ]

    encoder = WordEncoder(odd)  # type: ignore[arg-type]
    assert encoder.encode(["strange text"])[0].tolist() == [1]
    assert encoder.failed


def test_a_bounded_dictionary_gives_the_same(tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = WordEncoder(tokenizer.encode_batch)
    assert encoder._is_splittable
    monkeypatch.setattr("tunesmith.data.tokens.words.MAX_WORDS", len(encoder.words) + 3)
    texts = ["a b c d", " x y " + "z" * 100, "a b c e f"]
    for _ in range(2):
        ids, _ = encoder.encode(texts)
        assert ids.tolist() == [token for part in tokenizer.encode_batch(texts) for token in part]
    encoder.encode(["new words of a later batch"])
    assert {"b", "c", "d"} < encoder.words.keys()
    assert encoder.words.keys().isdisjoint({"z" * 100, "words", "later"})


def sentencepiece_like(texts: Sequence[str]) -> list[list[int]]:
    """A space before every text, one id a character: pieces encoded apart do not add up."""
    return [[ord(character) for character in " " + text] for text in texts]


def test_rows_are_cut_where_the_prompt_ends_when_pieces_do_not_add_up() -> None:
    encoder = Encoder(sentencepiece_like, start_id=1, end_id=2, chat=False, control_tokens=(), additive=False)
    encoded = encoder.encode([[("Q: hi\nA:", CONTEXT), (" yes", TARGET)], [("x", TARGET)]])
    ids, supervised = encoded.tokens, encoded.supervised
    assert encoded.lengths.tolist() == [15, 4]
    assert "".join(map(chr, ids[:15][supervised[:15]][:-1])) == " yes"
    assert "".join(map(chr, ids[15:][supervised[15:]][:-1])) == " x"


def test_control_tokens_count_as_targets_but_not_as_bytes(
    chat_tokenizer: TextTokenizer, prepared: Callable[..., Data], tmp_path: Path
) -> None:
    encoder = Encoder.of(chat_tokenizer, chat=True)
    pieces: Pieces = [
        ("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", CONTEXT),
        ("Yes.", TARGET),
        ("<|im_end|>", MARK),
    ]
    encoded = encoder.encode([pieces])
    control = chat_tokenizer.backend.convert_tokens_to_ids("<|im_end|>")
    assert encoded.tokens[-1] == control
    assert encoded.supervised[-1]
    assert not encoded.supervised[0]
    assert encoded.tokens[0] == chat_tokenizer.backend.convert_tokens_to_ids("<|im_start|>")


def test_text_is_text_outside_chat(prepared: Callable[..., Data], tokenizer: TextTokenizer, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a <|endoftext|> b\nsomething else\n")
    data = prepared(path)
    for documents in (data.train, data.eval):
        ids, _ = documents[0]
        assert tokenizer.end_id not in ids[1:-1].tolist()
        assert tokenizer.decode(ids[1:-1].tolist()) == documents.text(0)


def test_workers_give_what_this_process_gives(
    tokenizer: TextTokenizer, shows_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = DataSection(path=str(shows_csv), prompt="{title}: ", completion="description")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one"))
    alone = prepare(section, tokenizer, 64)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "two"))
    monkeypatch.setattr("tunesmith.data.tokens.tokenize.num_workers", lambda size: 2)
    monkeypatch.setattr("tunesmith.data.tokens.tokenize.BATCH_ROWS", 50)
    assert prepare(section, tokenizer, 64).fingerprint == alone.fingerprint


def test_a_dead_worker_costs_nothing_but_time(
    tokenizer: TextTokenizer, shows_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = DataSection(path=str(shows_csv), text="description")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one"))
    alone = prepare(section, tokenizer, 64)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "two"))
    monkeypatch.setattr("tunesmith.data.tokens.tokenize.num_workers", lambda size: 1)
    monkeypatch.setattr("tunesmith.data.tokens.tokenize.BATCH_ROWS", 50)
    encode = encode_workers._Worker.encode

    def killed(worker: encode_workers._Worker, rows: np.ndarray) -> object:
        worker.process.kill()
        worker.process.wait()
        return encode(worker, rows)

    monkeypatch.setattr(encode_workers._Worker, "encode", killed)
    assert prepare(section, tokenizer, 64).fingerprint == alone.fingerprint


def test_completions_are_the_targets(prepared: Callable[..., Data], tokenizer: TextTokenizer, tmp_path: Path) -> None:
    rows = [{"prompt": f"Question {i}?\n", "completion": f"Answer {i * 7}."} for i in range(20)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = prepared(path, near_duplicates=False)
    wanted = {row["prompt"]: row["completion"] for row in rows}
    for documents in (data.train, data.eval):
        for index, (ids, supervised) in enumerate(documents):
            prompt = documents.prompt_text(index)
            assert prompt is not None
            assert supervised_text(tokenizer, ids, supervised) == wanted[prompt]
            assert supervised[-1]
            assert documents.num_bytes[index] == len(wanted[prompt])
            assert documents.text(index) == prompt + wanted[prompt]
    assert data.account.kind == "prompt"
