"""The first batch in words: what is really fed, decoded, and which of it is learned."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from tunesmith.audit.examples import Example, ExampleToken, decode_example, document_text
from tunesmith.audit.text import holds_private
from tunesmith.data.tokens.long import vocabulary_bytes

if TYPE_CHECKING:
    from tunesmith.data.tokens.documents import TokenizedDocuments
    from tunesmith.models.tokenizer import TextTokenizer
    from tunesmith.training.steps.batches import Batches

OPEN, CLOSE = "«", "»"
FIRST_SHOWN, LAST_SHOWN = 150, 40
"""Tokens of a long document; those between are counted."""


def describe_first_batch(batches: Batches, tokenizer: TextTokenizer) -> str:
    """How much the first step feeds and learns, and one of its documents with what is learned between « and ».

    A document that holds a secret or personal data of a known shape is passed over.
    """
    step, documents = batches.steps[0], batches.documents
    told = (
        f"first step {len(step):,} document{'s' * (len(step) != 1)}, {batches.num_fed(step):,} tokens fed, "
        f"{batches.num_targets(step):,} learned"
    )
    shown = next((index for index in step.tolist() if _may_be_shown(documents, index, tokenizer)), None)
    if shown is None:
        return f"{told}; each holds what looks private, so none is shown"
    example = decode_example(documents, shown, tokenizer, vocabulary_bytes(tokenizer.backend))
    return (
        f"{told}. One of them, {example.row}: {example.num_supervised:,} of {example.num_tokens:,} tokens are learned, "
        f"those between {OPEN} and {CLOSE}\n{_indented(_marked(example))}"
    )


def _may_be_shown(documents: TokenizedDocuments, index: int, tokenizer: TextTokenizer) -> bool:
    return not holds_private(document_text(documents, index, tokenizer))


def _marked(example: Example) -> str:
    tokens = example.tokens
    if len(tokens) <= FIRST_SHOWN + LAST_SHOWN:
        return _marked_tokens(tokens)
    first, last = tokens[:FIRST_SHOWN], tokens[-LAST_SHOWN:]
    between = example.num_tokens - sum(len(token.ids) for token in (*first, *last))
    return f"{_marked_tokens(first)} [{between:,} tokens] {_marked_tokens(last)}"


def _marked_tokens(tokens: Sequence[ExampleToken]) -> str:
    runs = ((learned, "".join(token.text for token in run)) for learned, run in groupby(tokens, lambda t: t.supervised))
    return "".join(f"{OPEN}{text}{CLOSE}" if learned else text for learned, text in runs)


def _indented(text: str) -> str:
    return "\n".join(f"           {line}" for line in text.split("\n"))
