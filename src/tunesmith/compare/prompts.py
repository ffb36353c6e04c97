"""What base and tuned are asked to continue: the recipe's prompts, openings of held-out rows, and nothing at all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Literal

import numpy as np

from tunesmith.data.rows.chat import ChatTemplate
from tunesmith.data.rows.turns import Turn
from tunesmith.data.tokens.encode import chat_prompt
from tunesmith.recipe import CompareSection

if TYPE_CHECKING:
    from tunesmith.data.tokens.documents import TokenizedDocuments
    from tunesmith.models.tokenizer import TextTokenizer

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
    ids: tuple[int, ...] | None = None
    """What to feed, start token included, where a row has a prompt of its own; None: `text`."""


def recipe_prompts(
    section: CompareSection, prompts: Sequence[str] | None = None, chat: ChatTemplate | None = None
) -> list[Prompt]:
    """Each prompt of the recipe (or of `prompts`) several times; once when decoding is greedy.

    chat: of a run that was tuned on conversations, where a prompt is a user's turn.
    """
    times = SAMPLES_PER_PROMPT if section.temperature > 0 else 1
    asked = [Prompt("prompt", text, ids=_asked(chat, text)) for text in prompts or section.prompts]
    return [prompt for prompt in asked for _ in range(times)]


def _asked(chat: ChatTemplate | None, text: str) -> tuple[int, ...] | None:
    return tuple(chat_prompt(chat, [Turn({"role": "user", "content": text})])) if chat and text else None


def held_out_prompts(documents: TokenizedDocuments, tokenizer: TextTokenizer, section: CompareSection) -> list[Prompt]:
    """Up to `num_samples` prompts from held-out rows, each row used once, in an order fixed by the seed.

    Half are openings of rows and half unconditional, whose yardstick is a whole row. Rows with a prompt of their own
    (prompt/completion, chat) are asked exactly that, and greedy decoding gets openings only.
    """
    order = np.random.default_rng(section.seed).permutation(len(documents)).tolist()
    if documents.supervised is not None:
        answers = (_own_prompt(documents, index, tokenizer, section.max_new_tokens) for index in order)
        return list(islice(filter(None, answers), section.num_samples))
    chosen: list[tuple[str, str, str]] = []
    for index in order:
        if len(chosen) == section.num_samples:
            break
        text = document_text(documents, index, tokenizer)
        cut = section.temperature == 0 or len(chosen) % 2 == 0
        prompt, rest = split_opening(text) if cut else ("", text)
        if rest.strip():
            chosen.append((prompt, rest, documents.row_name(index)))
    limit = section.max_new_tokens
    return [
        Prompt(
            "opening" if prompt else "unconditional",
            prompt,
            real=rest if len(ids) < limit else tokenizer.decode(ids[:limit]),
            real_ended=len(ids) < limit,
            row=row,
        )
        for (prompt, rest, row), ids in zip(
            chosen, tokenizer.encode_batch([rest for _, rest, _ in chosen]), strict=True
        )
    ]


def _own_prompt(documents: TokenizedDocuments, index: int, tokenizer: TextTokenizer, limit: int) -> Prompt | None:
    """The prompt of a row as it was trained on, and its first answer; None for an empty answer."""
    ids, supervised = documents[index]
    first = int(supervised.argmax())
    learned = np.flatnonzero(~supervised[first:])
    answer = ids[first : first + int(learned[0])] if len(learned) else ids[first:]
    real = tokenizer.decode(answer[:limit].tolist())
    if not supervised.any() or not real.strip():
        return None
    before = ids[:first].tolist()
    text = documents.prompt_text(index)
    return Prompt(
        "opening",
        tokenizer.decode(before) if text is None else text,
        real=real,
        real_ended=len(answer) <= limit,
        row=documents.row_name(index),
        ids=tuple(before),
    )


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
