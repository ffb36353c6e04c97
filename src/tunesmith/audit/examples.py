"""Documents as the model sees them: every token decoded, what is learned told apart from what is only read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from tunesmith.audit.text import holds_private
from tunesmith.data.tokens.documents import TokenizedDocuments
from tunesmith.redact import visible

if TYPE_CHECKING:
    from tunesmith.models.tokenizer import TextTokenizer

FIRST_TOKENS = 300
LAST_TOKENS = 60
_TRIES = 50


@dataclass(frozen=True)
class ExampleToken:
    """A piece of text with its token ids; several ids only where they share one character."""

    text: str
    ids: tuple[int, ...]
    supervised: bool
    is_control: bool = False


@dataclass(frozen=True)
class Example:
    """One document. omitted: tokens left out before `tokens[omitted_at]`, for long documents."""

    row: str
    num_tokens: int
    num_supervised: int
    tokens: tuple[ExampleToken, ...]
    omitted: int = 0
    omitted_at: int = 0

    def runs(self) -> list[tuple[str, bool]]:
        """Neighbouring tokens joined: (text, learned or only read)."""
        return [
            ("".join(token.text for token in run), supervised)
            for supervised, run in groupby(self.tokens, key=lambda token: token.supervised)
        ]

    def to_json(self) -> dict[str, object]:
        return {
            "row": self.row,
            "tokens": self.num_tokens,
            "supervised_tokens": self.num_supervised,
            "omitted_tokens": self.omitted,
            "runs": [{"text": text, "supervised": supervised} for text, supervised in self.runs()],
        }


def choose_examples(
    documents: TokenizedDocuments, tokenizer: TextTokenizer, vocabulary: Sequence[bytes], num_examples: int = 3
) -> list[Example]:
    """The first document, one of middle length, and the longest.

    A document that holds a secret or personal data of a known shape is passed over. vocabulary: bytes of each token id.
    """
    if not len(documents):
        return []
    order = documents.lengths.argsort(kind="stable").tolist()
    middle = len(order) // 2
    wishes = [range(len(documents)), [*order[middle:], *order[:middle][::-1]], order[::-1]]
    chosen: list[int] = []
    for wish in wishes[:num_examples]:
        for index in list(wish[:_TRIES]):
            if index not in chosen and not holds_private(document_text(documents, index, tokenizer)):
                chosen.append(index)
                break
    return [decode_example(documents, index, tokenizer, vocabulary) for index in chosen]


def document_text(documents: TokenizedDocuments, index: int, tokenizer: TextTokenizer) -> str:
    """The original text of a document, or its ids decoded where the text is not kept."""
    text = documents.text(index)
    return tokenizer.decode(documents[index][0].tolist()) if text is None else text


def decode_example(
    documents: TokenizedDocuments, index: int, tokenizer: TextTokenizer, vocabulary: Sequence[bytes]
) -> Example:
    """One document token by token; the middle of a long one is left out."""
    ids, supervised = documents[index]
    omitted = max(0, len(ids) - FIRST_TOKENS - LAST_TOKENS)
    kept = slice(0, FIRST_TOKENS) if omitted else slice(0, len(ids))
    controls = set(tokenizer.backend.all_special_ids)
    tokens = _decode(ids[kept].tolist(), supervised[kept].tolist(), vocabulary, controls)
    omitted_at = len(tokens)
    if omitted:
        tokens += _decode(ids[-LAST_TOKENS:].tolist(), supervised[-LAST_TOKENS:].tolist(), vocabulary, controls)
    return Example(
        documents.row_name(index), len(ids), int(supervised.sum()), tuple(tokens), omitted, omitted_at if omitted else 0
    )


def _decode(
    ids: list[int], supervised: list[bool], vocabulary: Sequence[bytes], controls: set[int]
) -> list[ExampleToken]:
    tokens: list[ExampleToken] = []
    waiting: list[int] = []
    for place, (token, is_target) in enumerate(zip(ids, supervised, strict=True)):
        waiting.append(token)
        data = b"".join(vocabulary[one] for one in waiting)
        following = place + 1 < len(ids) and supervised[place + 1] == is_target and ids[place + 1] not in controls
        if following and len(waiting) < 4 and _ends_inside_character(data):
            continue
        text = visible(data.decode("utf-8", "replace"))
        tokens.append(ExampleToken(text, tuple(waiting), is_target, token in controls))
        waiting = []
    return tokens


def _ends_inside_character(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return False
