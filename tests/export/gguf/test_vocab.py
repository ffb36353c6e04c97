"""The tokenizer in GGUF's terms: what is said of it, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from tunesmith.errors import ModelError
from tunesmith.export.gguf.vocab import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, vocabulary
from tunesmith.models.tokenizer import TextTokenizer


def changed(tokenizer: TextTokenizer, **parts: Any) -> TextTokenizer:
    """The tokenizer with other parts in its tokenizer.json."""
    content = {**json.loads(tokenizer.backend.backend_tokenizer.to_str()), **parts}
    backend = SimpleNamespace(backend_tokenizer=SimpleNamespace(to_str=lambda: json.dumps(content)))
    return replace(tokenizer, backend=backend)


def test_byte_level(tokenizer: TextTokenizer) -> None:
    words = vocabulary(tokenizer, 512)
    assert (words.model, words.pre, len(words.tokens)) == ("gpt2", "gpt-2", 512)
    assert words.tokens[0] == "<|endoftext|>"
    assert words.kinds[0] == CONTROL
    assert words.kinds[1] == NORMAL
    assert all(" " in merge for merge in words.merges)


def test_rows_without_a_token_are_filled(tokenizer: TextTokenizer) -> None:
    words = vocabulary(tokenizer, 515)
    assert words.tokens[-1] == "[PAD514]"
    assert words.kinds[-3:] == (UNUSED,) * 3


def test_tokens_beyond_the_rows(tokenizer: TextTokenizer) -> None:
    with pytest.raises(ModelError, match=r"12 tokens lie beyond the model's 500 rows"):
        vocabulary(tokenizer, 500)


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"


@pytest.mark.parametrize(
    ("steps", "name"),
    [
        ([{"type": "Digits", "individual_digits": True}, {**BYTES, "use_regex": True}], "smollm"),
        ([split(LLAMA3), BYTES], "llama-bpe"),
        ([split(QWEN2), BYTES], "qwen2"),
        ([{"type": "Punctuation"}, BYTES, {"type": "Digits", "individual_digits": False}, split("[0-9]{3}")], "falcon"),
    ],
)
def test_how_text_is_cut(steps: list[Any], name: str, tokenizer: TextTokenizer) -> None:
    other = changed(tokenizer, pre_tokenizer={"type": "Sequence", "pretokenizers": steps})
    assert vocabulary(other, 512).pre == name


@pytest.mark.parametrize(
    "parts",
    [
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split("[aeiou]"), BYTES]}},
        {"pre_tokenizer": {**BYTES, "use_regex": True, "add_prefix_space": True}},
        {"normalizer": {"type": "Lowercase"}},
        {"model": {"type": "Unigram", "vocab": []}},
    ],
)
def test_what_llama_cpp_has_no_name_for(parts: dict[str, Any], tokenizer: TextTokenizer) -> None:
    with pytest.raises(ModelError, match=r"[Ss]afetensors"):
        vocabulary(changed(tokenizer, **parts), 512)


def test_sentence_piece(tokenizer: TextTokenizer) -> None:
    """Merges become scores: the earlier a pair is joined, the higher."""
    names = ["<unk>", "<s>", "<0x0A>", "▁", "a", "b", "▁a", "ab"]
    model = {
        "type": "BPE",
        "byte_fallback": True,
        "unk_token": "<unk>",
        "vocab": {name: number for number, name in enumerate(names)},
        "merges": [["▁", "a"], ["a", "b"]],
    }
    normalizer = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}]}
    added = [{"id": 1, "content": "<s>", "special": True}]
    words = vocabulary(
        changed(tokenizer, model=model, normalizer=normalizer, pre_tokenizer=None, added_tokens=added), 8
    )
    assert (words.model, words.starts_with_space) == ("llama", True)
    assert words.kinds == (UNKNOWN, CONTROL, BYTE, NORMAL, NORMAL, NORMAL, NORMAL, NORMAL)
    assert words.scores[6] == 0.0
    assert words.scores[7] == -1.0
    assert max(words.scores[3:6]) < -1.0
