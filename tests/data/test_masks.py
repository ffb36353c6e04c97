"""Masks of any row, whole or cut: learned is what was asked for and its end, and every token is accounted for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from tunesmith.data import Data
from tunesmith.data.rows.chat import ChatTemplate
from tunesmith.data.rows.turns import read_turns
from tunesmith.data.tokens.encode import Encoder
from tunesmith.errors import DataError
from tunesmith.models.tokenizer import TextTokenizer

END, END_OF_TURN = "<|endoftext|>", "<|im_end|>"
SAY = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="<|>"), min_size=1, max_size=30)
WORDS = st.text("abcd efg. éß灯。\n", min_size=1, max_size=120).filter(str.strip)
Prepared = Callable[..., Data]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("masks")


@settings(deadline=None, max_examples=40)
@given(contents=st.lists(st.tuples(SAY, SAY), min_size=1, max_size=3), system=st.none() | SAY)
def test_masks_of_any_conversation(
    chat_tokenizer: TextTokenizer, contents: list[tuple[str, str]], system: str | None
) -> None:
    turns = [{"role": "system", "content": system}] if system is not None else []
    for asked, answered in contents:
        turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    template = ChatTemplate.of(chat_tokenizer)
    encoded = Encoder.of(chat_tokenizer, chat=True).encode(template.render(read_turns(turns, "messages")).documents)
    learned = encoded.tokens[encoded.supervised].tolist()
    assert chat_tokenizer.decode(learned, skip_special_tokens=False) == "".join(
        f"{answered}<|im_end|>" for _, answered in contents
    )


@dataclass(frozen=True)
class Rows:
    """Rows of one kind, the recipe values that they need, and what of each is to be learned."""

    rows: list[dict[str, Any]]
    section: dict[str, str]
    learned: list[str]


@st.composite
def any_rows(draw: DrawFn) -> Rows:
    kind = draw(st.sampled_from(["text", "prompt", "chat", "alpaca"]))
    said = draw(st.lists(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3), min_size=2, max_size=4))
    firsts = [pairs[0] for pairs in said]
    if kind == "text":
        rows = [{"text": answer} for _, answer in firsts]
        return Rows(rows, {"text": "text"}, [f"{answer}{END}" for _, answer in firsts])
    if kind == "prompt":
        rows = [{"asked": asked, "answer": answer} for asked, answer in firsts]
        section = {"prompt": "{asked}\n", "completion": "answer"}
        return Rows(rows, section, [f"{answer}{END}" for _, answer in firsts])
    if kind == "alpaca":
        rows = [{"instruction": asked, "input": "", "output": answer} for asked, answer in firsts]
        return Rows(rows, {}, [f"{answer}{END_OF_TURN}" for _, answer in firsts])
    names = ("user", "assistant")
    turns = [[{"role": r, "content": c} for pair in pairs for r, c in zip(names, pair, strict=True)] for pairs in said]
    learned = ["".join(f"{answer}{END_OF_TURN}" for _, answer in pairs) for pairs in said]
    return Rows([{"messages": row} for row in turns], {"messages": "messages"}, learned)


def targets(data: Data) -> dict[int, list[int]]:
    """The ids that are learned of each row, over all its pieces."""
    train = data.train
    pieces = zip(train.rows.tolist(), train, strict=True)
    return {
        row: [token for _, (ids, supervised) in group for token in ids[supervised].tolist()]
        for row, group in groupby(pieces, lambda piece: piece[0])
    }


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    given=any_rows(),
    long=st.sampled_from(["split", "truncate", "drop"]),
    max_length=st.integers(8, 60),
)
def test_every_token_is_learned_once_or_counted(
    prepared: Prepared, chat_tokenizer: TextTokenizer, folder: Path, given: Rows, long: str, max_length: int
) -> None:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in given.rows))
    common = dict(with_tokenizer=chat_tokenizer, eval_fraction=0.0, max_bad_rows=0.0, **given.section)
    whole = prepared(path, max_length=10_000, **common)
    assert [chat_tokenizer.decode(ids, skip_special_tokens=False) for ids in targets(whole).values()] == given.learned
    cut = prepared_unless_all_is_gone(prepared, path, max_length=max_length, long=long, **common)
    if cut is None:
        return
    check_targets(whole, cut, long)
    check_ledger(whole, cut)


def prepared_unless_all_is_gone(prepared: Prepared, path: Path, *, long: str, **values: Any) -> Data | None:
    try:
        return prepared(path, long=long, **values)
    except DataError as error:
        if long == "split" or "0 tokens would be trained" not in str(error):
            raise
        return None


def check_targets(whole: Data, cut: Data, long: str) -> None:
    """A row's targets are all of them in order; the first ones where it is truncated; none where it is dropped."""
    found = targets(cut)
    for row, expected in targets(whole).items():
        kept = found.pop(row, [])
        if long == "split":
            assert kept == expected
        else:
            assert kept == expected[: len(kept)]
        if long == "drop":
            assert len(kept) in (0, len(expected))
    assert not found


def check_ledger(whole: Data, cut: Data) -> None:
    """Every token but the starts is in the pieces, once more as context, or counted as what is gone."""
    counts, train = cut.account.long, cut.train
    assert train.num_targets == cut.account.splits["train"].targets == int(train.targets_per_document.sum())
    assert train.num_targets + counts.lost_targets == whole.train.num_targets
    fed, before = (len(documents.tokens) - len(documents) for documents in (train, whole.train))
    assert fed == before + counts.context_tokens - counts.lost_targets - counts.unread_tokens
    assert all(not supervised[0] for _, supervised in train)
