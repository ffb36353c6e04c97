"""Conversations: what the assistant says is learned, with the token that ends it; nothing else is."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tunesmith.data import Data, TokenizedDocuments
from tunesmith.data.rows.chat import DEFAULT_TEMPLATE
from tunesmith.data.rows.template import RowProblem
from tunesmith.data.rows.turns import read_turns
from tunesmith.errors import DataError
from tunesmith.models.tokenizer import TextTokenizer

THINKING = (
    "{% for m in messages %}{% if m['role'] == 'assistant' and not loop.last %}"
    "<|im_start|>assistant\n{{ m['content'].split('</think>')[-1] }}<|im_end|>\n"
    "{% else %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def conversation(number: int, num_turns: int = 2) -> list[dict[str, Any]]:
    turns = []
    for turn in range(num_turns):
        turns.append({"role": "user", "content": f"Question {number}.{turn}?"})
        turns.append({"role": "assistant", "content": f"Answer {number * 7}.{turn}."})
    return turns


def with_template(tokenizer: TextTokenizer, template: str | None) -> TextTokenizer:
    backend = copy.deepcopy(tokenizer.backend)
    backend.chat_template = template
    return replace(tokenizer, backend=backend)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def said(documents: TokenizedDocuments, tokenizer: TextTokenizer) -> list[str]:
    return [tokenizer.decode(ids[supervised].tolist(), skip_special_tokens=False) for ids, supervised in documents]


def all_said(data: Data, tokenizer: TextTokenizer) -> set[str]:
    return {*said(data.train, tokenizer), *said(data.eval, tokenizer)}


def test_only_assistant_turns_are_learned(
    prepared: Callable[..., Data], chat_tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    rows = [{"messages": conversation(number)} for number in range(20)]
    data = prepared(write(tmp_path / "a.jsonl", rows), with_tokenizer=chat_tokenizer)
    wanted = {f"Answer {n * 7}.0.<|im_end|>Answer {n * 7}.1.<|im_end|>" for n in range(20)}
    assert all_said(data, chat_tokenizer) == wanted
    for index, (ids, _) in enumerate(data.train):
        row = rows[int(data.train.rows[index])]["messages"]
        rendered = chat_tokenizer.backend.apply_chat_template(row, tokenize=False)
        text = chat_tokenizer.decode(ids.tolist(), skip_special_tokens=False)
        assert rendered == text + "\n"  # what follows the last learned token is not fed
        assert data.train.num_bytes[index] == sum(len(turn["content"]) for turn in row if turn["role"] == "assistant")
    assert data.account.kind == "chat"
    assert data.account.chat_template == "the model's own"


def test_a_prompt_is_fed_as_generation_sees_it(
    prepared: Callable[..., Data], chat_tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    rows = [{"messages": conversation(number, 1)} for number in range(9)]
    documents = prepared(write(tmp_path / "a.jsonl", rows), with_tokenizer=chat_tokenizer).train
    for index, (ids, supervised) in enumerate(documents):
        turns = rows[int(documents.rows[index])]["messages"]
        prompt = chat_tokenizer.backend.apply_chat_template(
            turns[:1], add_generation_prompt=True, tokenize=True, return_dict=False
        )
        assert ids[: int(supervised.argmax())].tolist() == prompt


def test_a_model_without_template_gets_the_default_and_keeps_it(
    prepared: Callable[..., Data], tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    base = with_template(tokenizer, None)
    path = write(tmp_path / "a.jsonl", [{"messages": conversation(number)} for number in range(9)])
    data = prepared(path, with_tokenizer=base)
    end = "<|endoftext|>"
    assert all_said(data, base) == {f"Answer {n * 7}.0.{end}Answer {n * 7}.1.{end}" for n in range(9)}
    assert base.backend.chat_template == DEFAULT_TEMPLATE
    assert data.account.chat_template == "default"
    assert "saved with it" in data.account.how
    again = with_template(tokenizer, None)
    prepared(path, with_tokenizer=again)  # from the cache
    assert again.backend.chat_template == DEFAULT_TEMPLATE


def test_plain_text_leaves_the_tokenizer_without_template(
    prepared: Callable[..., Data], tokenizer: TextTokenizer, shows_csv: Path
) -> None:
    base = with_template(tokenizer, None)
    prepared(shows_csv, text="description", with_tokenizer=base, max_rows=20)
    assert base.backend.chat_template is None


def test_another_template_is_not_taken_from_the_cache(
    prepared: Callable[..., Data], chat_tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.jsonl", [{"messages": conversation(number)} for number in range(9)])
    first = prepared(path, with_tokenizer=chat_tokenizer)
    other = with_template(chat_tokenizer, chat_tokenizer.backend.chat_template.replace("\\n", "\\n\\n"))
    assert prepared(path, with_tokenizer=other).fingerprint != first.fingerprint


def test_a_template_that_rewrites_turns_makes_a_document_a_turn(
    prepared: Callable[..., Data], chat_tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    thinking = with_template(chat_tokenizer, THINKING)
    rows = [{"messages": conversation(number)} for number in range(9)]
    rows[4]["messages"][1]["content"] = "<think>hm</think>Answer."
    data = prepared(write(tmp_path / "a.jsonl", rows), with_tokenizer=thinking, near_duplicates=False)
    found = all_said(data, chat_tokenizer)
    assert {"<think>hm</think>Answer.<|im_end|>", "Answer 28.1.<|im_end|>"} < found
    assert "Answer 0.0.<|im_end|>Answer 0.1.<|im_end|>" in found, "rows that the template only appends to stay whole"
    assert data.account.chat is not None
    assert data.account.chat.met["turn_a_document"].rows == (f"{tmp_path}/a.jsonl:5",)
    assert "rewrites earlier turns" in data.account.how
    texts = [split.text(i) or "" for split in (data.train, data.eval) for i in range(len(split))]
    (after,) = [text for text in texts if text.endswith("Answer 28.1.<|im_end|>")]
    assert "hm" not in after, "the second turn is learned behind what the model sees of the first when it is used"


def test_a_template_that_refuses_turns_is_explained(
    prepared: Callable[..., Data], chat_tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    strict = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('User must begin.') }}{% endif %}"
    rows = [{"messages": conversation(number)} for number in range(5)] + [{"messages": conversation(9)[1:]}]
    path = write(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError, match=r"a.jsonl:6: the chat template refuses these turns \(.*\): User must begin"):
        prepared(path, with_tokenizer=with_template(chat_tokenizer, strict + chat_tokenizer.backend.chat_template))


def test_sharegpt_is_recognised(prepared: Callable[..., Data], chat_tokenizer: TextTokenizer, tmp_path: Path) -> None:
    names = {"user": "human", "assistant": "gpt"}
    talks = [[{"from": names[turn["role"]], "value": turn["content"]} for turn in conversation(n)] for n in range(9)]
    rows = [{"id": n, "system": "Be brief.", "conversations": talk} for n, talk in enumerate(talks)]
    data = prepared(write(tmp_path / "a.jsonl", rows), with_tokenizer=chat_tokenizer)
    assert all_said(data, chat_tokenizer) == {
        f"Answer {n * 7}.0.<|im_end|>Answer {n * 7}.1.<|im_end|>" for n in range(9)
    }
    assert "<|im_start|>system\nBe brief.<|im_end|>" in (data.train.text(0) or "")
    assert "ShareGPT" in data.account.how


def test_one_system_prompt_does_not_make_all_conversations_alike(
    prepared: Callable[..., Data], chat_tokenizer: TextTokenizer, tmp_path: Path, texts: list[str]
) -> None:
    prompts = [
        {"role": "system", "content": words * 70} for words in ("Be brief and kind. ", "Answer as a pirate would. ")
    ]
    rows = [{"messages": [prompts[n % 2], *conversation(n, 1)]} for n in range(60)]
    for row, text in zip(rows, texts, strict=True):
        row["messages"][1]["content"] = text
    data = prepared(
        write(tmp_path / "a.jsonl", rows), with_tokenizer=chat_tokenizer, max_length=4096, eval_fraction=0.2
    )
    assert 5 < len(data.eval) < 20


def test_alpaca_is_recognised(prepared: Callable[..., Data], chat_tokenizer: TextTokenizer, tmp_path: Path) -> None:
    rows = [{"instruction": f"Double {n}.", "input": "Now." * (n % 2), "output": f"{2 * n}"} for n in range(20)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows))
    data = prepared(path, with_tokenizer=chat_tokenizer)
    assert all_said(data, chat_tokenizer) == {f"{2 * n}<|im_end|>" for n in range(20)}
    assert "Alpaca" in data.account.how
    texts = [data.train.text(i) for i in range(len(data.train))]
    assert "<|im_start|>user\nDouble 3.\n\nNow.<|im_end|>\n<|im_start|>assistant\n6<|im_end|>" in texts


def test_tools_and_system_pass_through(
    prepared: Callable[..., Data], chat_tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    template = "{% if tools %}TOOLS {{ tools[0]['name'] }}\n{% endif %}" + chat_tokenizer.backend.chat_template
    turns = [
        {"role": "system", "content": "S"},
        *conversation(1, 1),
        {"role": "tool", "content": "42"},
        *conversation(2, 1),
    ]
    rows = [{"messages": turns, "tools": json.dumps([{"name": f"tool{n}"}])} for n in range(4)]
    tuned = with_template(chat_tokenizer, template)
    data = prepared(write(tmp_path / "a.jsonl", rows), with_tokenizer=tuned, near_duplicates=False)
    text = data.train.text(0) or ""
    assert text.startswith("TOOLS tool")
    assert "<|im_start|>system\nS<|im_end|>" in text
    assert "<|im_start|>tool\n42<|im_end|>" in text


def test_turns_that_end_without_a_control_token_get_the_end(
    prepared: Callable[..., Data], tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    plain = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    tuned = with_template(tokenizer, plain)
    data = prepared(
        write(tmp_path / "a.jsonl", [{"messages": conversation(n, 1)} for n in range(9)]), with_tokenizer=tuned
    )
    assert all_said(data, tokenizer) == {f"Answer {n * 7}.0.<|endoftext|>" for n in range(9)}


def test_rows_without_an_answer_are_counted_as_empty(
    prepared: Callable[..., Data], chat_tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    rows: list[dict[str, Any]] = [{"messages": conversation(n)} for n in range(30)]
    rows += [{"messages": []}, {"messages": conversation(50)[:1]}]
    account = prepared(write(tmp_path / "a.jsonl", rows), with_tokenizer=chat_tokenizer).account
    assert account.empty == 2
    assert account.examples.empty == (f"{tmp_path}/a.jsonl:31", f"{tmp_path}/a.jsonl:32")


def test_chat_and_text_do_not_mix(prepared: Callable[..., Data], chat_tokenizer: TextTokenizer, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"messages": conversation(n)} for n in range(5)])
    write(tmp_path / "b.jsonl", [{"text": f"words {n}"} for n in range(5)])
    with pytest.raises(DataError, match="some files hold chat turns and others do not"):
        prepared(tmp_path, with_tokenizer=chat_tokenizer)


TEXT_PARTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([{"role": "User", "content": "a"}], {"role": "user", "content": "a"}),
        ([{"from": "human", "value": "a"}], {"role": "user", "content": "a"}),
        ('[{"from": "gpt", "value": "a"}]', {"role": "assistant", "content": "a"}),
        ([{"role": "user", "content": TEXT_PARTS}], {"role": "user", "content": "ab"}),
        (
            [{"role": "assistant", "content": None, "tool_calls": None, "name": None}],
            {"role": "assistant", "content": ""},
        ),
    ],
)
def test_a_turn_is_read(value: Any, expected: dict[str, Any]) -> None:
    assert [turn.message for turn in read_turns(value, "messages")] == [expected]


def test_no_turns_are_none() -> None:
    assert read_turns(None, "messages") == read_turns("", "messages") == []


def test_a_system_column_does_not_replace_a_system_turn() -> None:
    turns = [{"role": "system", "content": "own"}, {"role": "user", "content": "x"}]
    assert read_turns(turns, "messages", "other")[0].message["content"] == "own"
    assert read_turns(turns[1:], "messages", "other")[0].message == {"role": "system", "content": "other"}


def test_turns_say_which_one_is_wrong() -> None:
    with pytest.raises(RowProblem, match="turn 2: unknown role 'wizard'"):
        read_turns([{"role": "user", "content": "x"}, {"role": "wizard", "content": "y"}], "messages")
