"""The tokenizer in the terms of GGUF: tokens, merges or scores, control tokens, and how text is cut into words.

llama.cpp cuts text with patterns of its own, which a name in the file chooses. A wrong name gives other tokens for the
same text and no error, so what is not recognised is refused, and rows of the run are tokenised by llama.cpp afterwards.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import ModelError
from tunesmith.models.tokenizer import TextTokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Kinds of tokens, as tokenizer.ggml.token_type numbers them."""

_GPT4O = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_SPLITS = (
    (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}", "llama-bpe"),
    (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|", "qwen2"),
    (_GPT4O, "gpt-4o"),
)
"""How the patterns of tokenizer.json begin, and llama.cpp's names for them."""


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says of its tokenizer."""

    model: str
    """gpt2: byte-level BPE; llama: SentencePiece."""
    pre: str
    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    merges: tuple[str, ...]
    scores: tuple[float, ...]
    starts_with_space: bool


def vocabulary(tokenizer: TextTokenizer, num_rows: int) -> Vocabulary:
    """The vocabulary, filled up to the rows of the embedding. Raises ModelError for a tokenizer of another kind."""
    content = json.loads(tokenizer.backend.backend_tokenizer.to_str())
    model = content["model"]
    if model.get("type") != "BPE":
        raise ModelError(
            f"export: the tokenizer is {model.get('type')}; llama.cpp reads byte-level BPE and SentencePiece BPE here. "
            "Export safetensors instead."
        )
    tokens: dict[int, str] = {number: token for token, number in model["vocab"].items()}
    kinds = dict.fromkeys(tokens, NORMAL)
    for added in content.get("added_tokens", ()):
        tokens[added["id"]] = added["content"]
        kinds[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    for number in range(num_rows):
        if number not in tokens:
            tokens[number], kinds[number] = f"[PAD{number}]", UNUSED
    beyond = [token for number, token in tokens.items() if number >= num_rows]
    names = tuple(tokens[number] for number in range(num_rows))
    if beyond and any(kinds[number] == NORMAL for number in tokens if number >= num_rows):
        raise ModelError(
            f"export: {len(beyond)} tokens lie beyond the model's {num_rows} rows: {', '.join(beyond[:3])}."
        )
    merges = [" ".join(merge) if isinstance(merge, list) else str(merge) for merge in model["merges"]]
    if model.get("byte_fallback"):
        return _sentence_piece(content, names, kinds, merges)
    return Vocabulary("gpt2", _pre(content), names, tuple(kinds[n] for n in range(num_rows)), tuple(merges), (), False)


def _sentence_piece(
    content: dict[str, Any], names: tuple[str, ...], kinds: dict[int, int], merges: list[str]
) -> Vocabulary:
    """llama.cpp joins the pair with the best score first: the rank of the merge that makes a token."""
    rank = {merge.replace(" ", "", 1): -float(number) for number, merge in reversed(list(enumerate(merges)))}
    unknown = content["model"].get("unk_token")
    for number, token in enumerate(names):
        if token == unknown:
            kinds[number] = UNKNOWN
        elif len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            kinds[number] = BYTE
    lowest = -float(len(merges) + 1)
    return Vocabulary(
        "llama",
        "default",
        names,
        tuple(kinds[number] for number in range(len(names))),
        (),
        tuple(rank.get(token, 0.0 if kinds[number] != NORMAL else lowest) for number, token in enumerate(names)),
        _prepends_space(content),
    )


def _prepends_space(content: dict[str, Any]) -> bool:
    normal, before = content.get("normalizer") or {}, content.get("pre_tokenizer") or {}
    steps = [*normal.get("normalizers", [normal]), *before.get("pretokenizers", [before])]
    return any(
        step.get("type") == "Prepend" or (step.get("type") == "Metaspace" and step.get("prepend_scheme") != "never")
        for step in steps
    )


def _pre(content: dict[str, Any]) -> str:
    """llama.cpp's name for how the text is cut. Raises ModelError when it has none."""
    before = content.get("pre_tokenizer") or {}
    steps = before.get("pretokenizers", [before])
    kinds = [step.get("type") for step in steps]
    spaced = any(step.get("type") == "ByteLevel" and step.get("add_prefix_space") for step in steps)
    if (content.get("normalizer") or {}).get("type") not in (None, "NFC") or spaced:
        raise ModelError(
            "export: the tokenizer changes text before it cuts it, which GGUF cannot say. Use safetensors."
        )
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits") and steps[1].get("use_regex", True):
        return "smollm"
    if kinds == ["Punctuation", "ByteLevel", "Digits"]:
        return "falcon"
    if kinds == ["Punctuation", "ByteLevel", "Digits", "Split"]:
        return "falcon"
    patterns = [str((step.get("pattern") or {}).get("Regex")) for step in steps if step.get("type") == "Split"]
    for begin, name in _SPLITS:
        if len(patterns) == 1 and patterns[0].startswith(begin):
            return name
    raise ModelError(
        f"export: how the tokenizer cuts text ({', '.join(map(str, kinds))}) has no name in llama.cpp that is known "
        "here. Export safetensors instead, and convert that with llama.cpp's own converter."
    )
