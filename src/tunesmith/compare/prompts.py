"""What base and tuned are asked to continue: the recipe's prompts, openings of held-out rows, and nothing at all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from tunesmith.recipe import CompareSection

if TYPE_CHECKING:
    from tunesmith.data.documents import TokenizedDocuments
    from tunesmith.tokenizer import TextTokenizer

SAMPLES_PER_PROMPT = 3
OPENING_WORDS = 5
_WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class Prompt:
    """One thing to continue, and how the real row goes on."""

    kind: Literal["prompt", "opening", "unconditional"]
    text: str
    real: str | None = None
    """The real continuation, cut to the length limit of the generated ones; None for a prompt of the recipe."""
    real_ended: bool = False
    """Whether the real continuation fits in the length limit."""
    row: str | None = None
    """The held-out row that `real` comes from, such as `shows.csv:17`."""


def recipe_prompts(section: CompareSection, prompts: Sequence[str] | None = None) -> list[Prompt]:
    """Each prompt of the recipe (or of `prompts`) several times; once when decoding is greedy."""
    times = SAMPLES_PER_PROMPT if section.temperature > 0 else 1
    return [Prompt("prompt", text) for text in (prompts or section.prompts) for _ in range(times)]


def held_out_prompts(documents: TokenizedDocuments, tokenizer: TextTokenizer, section: CompareSection) -> list[Prompt]:
    """Up to `num_samples` prompts from held-out rows, each row used once, in an order fixed by the seed.

    Half are openings of rows and half unconditional, whose yardstick is a whole row. Rows with a prompt of their own
    (prompt/completion, chat) are asked exactly that, and greedy decoding gets openings only.
    """
    order = np.random.default_rng(section.seed).permutation(len(documents))
    chosen: list[tuple[str, str, str]] = []
    openings_only = documents.supervised is not None or section.temperature == 0
    for index in order.tolist():
        if len(chosen) == section.num_samples:
            break
        prompt, rest = _split_row(documents, index, tokenizer, cut=openings_only or len(chosen) % 2 == 0)
        if rest.strip():
            chosen.append((prompt, rest, documents.row_name(index)))
    rests = tokenizer.encode_batch([rest for _, rest, _ in chosen]) if chosen else []
    limit = section.max_new_tokens
    return [
        Prompt(
            "opening" if prompt else "unconditional",
            prompt,
            real=rest if len(ids) < limit else tokenizer.decode(ids[:limit]),
            real_ended=len(ids) < limit,
            row=row,
        )
        for (prompt, rest, row), ids in zip(chosen, rests, strict=True)
    ]


def _split_row(documents: TokenizedDocuments, index: int, tokenizer: TextTokenizer, *, cut: bool) -> tuple[str, str]:
    text = document_text(documents, index, tokenizer)
    own_prompt = documents.prompt_text(index)
    if own_prompt:
        return own_prompt, text[len(own_prompt) :]
    return split_opening(text) if cut else ("", text)


def document_text(documents: TokenizedDocuments, index: int, tokenizer: TextTokenizer) -> str:
    """The original text of a document, or what its tokens decode to where the text is not kept."""
    text = documents.text(index)
    return tokenizer.decode(documents[index][0].tolist()) if text is None else text


def split_opening(text: str) -> tuple[str, str]:
    """The first few words of a text (a third of them at most), and how it goes on; characters where words are not
    separated by spaces. A text too short to cut has no opening."""
    found = list(_WORD.finditer(text))
    if len(found) >= 6:
        end = found[min(OPENING_WORDS, len(found) // 3) - 1].end()
    elif len(text) >= 6:
        end = min(12, len(text) // 3)
    else:
        end = 0
    return text[:end], text[end:]
