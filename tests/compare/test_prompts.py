"""What is asked: openings of held-out rows, nothing at all, and the prompts of rows exactly as they were trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith.compare.prompts import held_out_prompts, recipe_prompts, split_opening
from tunesmith.data import prepare
from tunesmith.generate.text import generate
from tunesmith.models.find import find_model
from tunesmith.models.tokenizer import TextTokenizer, load_tokenizer
from tunesmith.recipe import CompareSection, DataSection


@pytest.fixture(scope="module")
def tokenizer(tiny_llama: Path) -> TextTokenizer:
    return load_tokenizer(find_model(str(tiny_llama)))


def test_an_opening_is_a_few_whole_words() -> None:
    text = "On the last day of summer a ferry stops between two islands."
    assert split_opening(text) == ("On the last day", " of summer a ferry stops between two islands.")
    assert split_opening("One two three four five six") == ("One two", " three four five six")
    long = " ".join(f"w{n}" for n in range(40))
    assert split_opening(long)[0].split() == ["w0", "w1", "w2", "w3", "w4"]


def test_an_opening_of_text_without_spaces_is_a_few_characters() -> None:
    text = "老人在河边造了一条船给他的孙女"
    assert split_opening(text) == (text[:5], text[5:])
    assert split_opening("短い") == ("", "短い")
    assert split_opening("") == ("", "")


def test_greedy_decoding_asks_each_prompt_once() -> None:
    assert [p.text for p in recipe_prompts(CompareSection(prompts=("a", "b")))] == ["a"] * 3 + ["b"] * 3
    assert [p.text for p in recipe_prompts(CompareSection(prompts=("a", "b"), temperature=0))] == ["a", "b"]
    assert [p.text for p in recipe_prompts(CompareSection(prompts=()))] == []


def plain(path: Path, tokenizer: TextTokenizer) -> Any:
    section = DataSection(path=str(path), text="description", eval_fraction=0.3, max_rows=60)
    return prepare(section, tokenizer, 256).eval


def test_prompt_and_continuation_make_up_the_row(shows_csv: Path, tokenizer: TextTokenizer) -> None:
    documents = plain(shows_csv, tokenizer)
    texts = {documents.row_name(index): documents.text(index) for index in range(len(documents))}
    asked = held_out_prompts(documents, tokenizer, CompareSection(num_samples=10, max_new_tokens=200))
    assert [prompt.kind for prompt in asked] == ["opening", "unconditional"] * 5
    for prompt in asked:
        assert prompt.row is not None
        assert prompt.text + (prompt.real or "") == texts[prompt.row]
        assert prompt.real_ended
    assert asked == held_out_prompts(documents, tokenizer, CompareSection(num_samples=10, max_new_tokens=200))


def test_real_texts_are_cut_at_the_limit_of_the_generated_ones(shows_csv: Path, tokenizer: TextTokenizer) -> None:
    documents = plain(shows_csv, tokenizer)
    for prompt in held_out_prompts(documents, tokenizer, CompareSection(num_samples=10, max_new_tokens=8)):
        assert not prompt.real_ended
        assert len(tokenizer.encode_batch([prompt.real or ""])[0]) <= 9
    greedy = held_out_prompts(documents, tokenizer, CompareSection(num_samples=6, temperature=0))
    assert {prompt.kind for prompt in greedy} == {"opening"}


def test_a_row_with_a_prompt_of_its_own_is_asked_exactly_that(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    rows = [{"q": f"What is {n} and {n}?", "a": f" It is {2 * n}, of course."} for n in range(40)]
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    section = DataSection(path=str(tmp_path / "sums.jsonl"), prompt="q", completion="a", eval_fraction=0.3)
    documents = prepare(section, tokenizer, 256).eval
    asked = held_out_prompts(documents, tokenizer, CompareSection(num_samples=5, max_new_tokens=60))
    assert len(asked) == 5
    answers = {row["q"]: row["a"] for row in rows}
    trained = {tuple(ids.tolist()) for ids, _ in documents}
    for prompt in asked:
        assert prompt.kind == "opening"
        assert answers[prompt.text.strip()].strip() == (prompt.real or "").strip()
        assert prompt.real_ended
        assert prompt.ids is not None
        assert prompt.ids[0] == tokenizer.start_id
        assert any(ids[: len(prompt.ids)] == prompt.ids for ids in trained)


def test_ids_are_written_from_as_they_are(tiny_llama: Path, tokenizer: TextTokenizer) -> None:
    from tunesmith.models.load import load_model

    model = load_model(find_model(str(tiny_llama)))
    ids = [tokenizer.start_id, *tokenizer.encode_batch(["A boy"])[0]]
    options: dict[str, Any] = {"max_new_tokens": 8, "temperature": 0.0, "top_p": 1.0, "seed": 1}
    spelled, fed = generate(model, tokenizer, ["A boy", ids], **options)
    assert spelled == fed
