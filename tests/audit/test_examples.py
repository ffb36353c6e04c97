"""Examples show exactly what is learned, cannot harm a terminal or a browser, and leave private rows out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tunesmith.audit.examples import FIRST_TOKENS, LAST_TOKENS, Example, choose_examples, decode_example
from tunesmith.audit.findings import AuditReport
from tunesmith.data.tokens.documents import TokenizedDocuments
from tunesmith.data.tokens.long import vocabulary_bytes
from tunesmith.models.find import find_model
from tunesmith.models.tokenizer import TextTokenizer, load_tokenizer
from tunesmith.run.artefacts import Finding, Histogram
from tunesmith.show.audit import page, render_example


@pytest.fixture(scope="module")
def tokenizer(tiny_llama: Path) -> TextTokenizer:
    return load_tokenizer(find_model(str(tiny_llama)))


@pytest.fixture(scope="module")
def vocabulary(tokenizer: TextTokenizer) -> list[bytes]:
    return vocabulary_bytes(tokenizer.backend)


def _documents(tokenizer: TextTokenizer, *rows: tuple[str, str]) -> TokenizedDocuments:
    """Documents of (prompt, completion)."""
    documents: list[Any] = []
    for prompt, completion in rows:
        read, learned = tokenizer.encode_batch([prompt, completion])
        ids = [tokenizer.start_id, *read, *learned, tokenizer.end_id]
        documents.append((ids, [False] * (1 + len(read)) + [True] * (len(learned) + 1)))
    return TokenizedDocuments.from_lists(documents)


def _example(tokenizer: TextTokenizer, vocabulary: list[bytes], prompt: str, completion: str) -> Example:
    return decode_example(_documents(tokenizer, (prompt, completion)), 0, tokenizer, vocabulary)


def test_runs_are_what_is_read_and_what_is_learned(tokenizer: TextTokenizer, vocabulary: list[bytes]) -> None:
    example = _example(tokenizer, vocabulary, "A prompt:", " the answer.")
    assert example.runs() == [("<|endoftext|>A prompt:", False), (" the answer.<|endoftext|>", True)]
    assert example.num_tokens == sum(len(token.ids) for token in example.tokens)
    assert example.tokens[0].is_control


def test_characters_of_several_tokens_are_shown_whole(tokenizer: TextTokenizer, vocabulary: list[bytes]) -> None:
    example = _example(tokenizer, vocabulary, "灯台🙂", "é道")
    assert "".join(text for text, _ in example.runs()) == "<|endoftext|>灯台🙂é道<|endoftext|>"
    assert max(len(token.ids) for token in example.tokens) > 1


def test_the_middle_of_a_long_document_is_left_out(tokenizer: TextTokenizer, vocabulary: list[bytes]) -> None:
    example = _example(tokenizer, vocabulary, "start", " word" * 600 + " last")
    assert example.omitted == example.num_tokens - FIRST_TOKENS - LAST_TOKENS
    assert sum(len(token.ids) for token in example.tokens) == FIRST_TOKENS + LAST_TOKENS
    printed = render_example(example).plain
    assert "not shown" in printed
    assert printed.endswith(" last<|endoftext|>")


def test_without_colour_brackets_tell_what_is_only_read(tokenizer: TextTokenizer, vocabulary: list[bytes]) -> None:
    text = render_example(_example(tokenizer, vocabulary, "A prompt:", " the answer."))
    assert text.plain.endswith("⟦<|endoftext|>A prompt:⟧ the answer.<|endoftext|>")
    assert {str(span.style) for span in text.spans} >= {"dim", "green"}


def test_a_terminal_gets_no_control_characters(tokenizer: TextTokenizer, vocabulary: list[bytes]) -> None:
    text = render_example(_example(tokenizer, vocabulary, "\x1b[2J\0\r", "\u202eab\x9b31m\x7f\n\tx")).plain
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert "␛[2J␀␍" in text


def test_the_first_a_middle_and_the_longest_document(tokenizer: TextTokenizer, vocabulary: list[bytes]) -> None:
    rows = [("", "word " * length) for length in (3, 9, 1, 5, 7)]
    examples = choose_examples(_documents(tokenizer, *rows), tokenizer, vocabulary)
    assert [example.row for example in examples] == ["row 1", "row 4", "row 2"]


def test_private_rows_are_passed_over(tokenizer: TextTokenizer, vocabulary: list[bytes]) -> None:
    rows = [("", "mail me: anna@example.com"), ("", "sk-" + "a1" * 12), ("", "A boy."), ("", "A girl and a boat.")]
    examples = choose_examples(_documents(tokenizer, *rows), tokenizer, vocabulary)
    assert sorted(example.row for example in examples) == ["row 3", "row 4"]
    only_private = _documents(tokenizer, *rows[:2])
    assert choose_examples(only_private, tokenizer, vocabulary) == []
    assert choose_examples(TokenizedDocuments.from_lists([]), tokenizer, vocabulary) == []


def test_the_page_runs_nothing_and_loads_nothing(tokenizer: TextTokenizer, vocabulary: list[bytes]) -> None:
    hostile = "<script>alert(1)</script><img src=x onerror=alert(2)>\"' {{ 7 * 7 }} \0"
    example = _example(tokenizer, vocabulary, hostile, "</div><style>*{}</style>")
    finding = Finding(
        name="rows", status="warns", found="found <b>bold</b>", rows=('"><script>x</script>.csv:1',), number=1
    )
    report = AuditReport((finding,), (example,), Histogram(edges=(0, 10), counts=(3,)), 3, 3, 0.1)
    html = page(report, '<script>"title"')
    assert html.count("<script") == 0
    assert html.count("<style>") == 1
    assert "<img" not in html
    assert "49" not in re.sub(r'title="[^"]*"', "", html).split("<h2>Examples")[1]
    assert "\0" not in html
    assert "default-src &#39;none&#39;" in html
    assert not re.search(r"(?:src|href)=", re.sub(r"<span[^>]*>[^<]*</span>", "", html))


def test_the_style_hash_of_the_page_is_that_of_its_style(tokenizer: TextTokenizer) -> None:
    import base64
    import hashlib

    html = page(AuditReport((), (), Histogram(edges=(0, 1), counts=(0,)), 0, 0, 0.0))
    style = html.split("<style>")[1].split("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"sha256-{digest}" in html.replace("&#43;", "+")
