"""Text as words: the unit in which copying, variety and length are counted, whatever tokenizer a model has."""

from __future__ import annotations

import re

_NO_SPACES = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
"""Thai, Lao, Burmese, Khmer, Japanese and Chinese are written without spaces: each character counts as a word."""

_WORD = re.compile(rf"[{_NO_SPACES}]|[^\W{_NO_SPACES}]+(?:['’][^\W{_NO_SPACES}]+)*|[^\w\s]|_")


def words(text: str) -> list[str]:
    """Words and punctuation marks of `text`, case folded."""
    return [word.casefold() for word in _WORD.findall(text)]


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where each word of `words(text)` lies in `text`: (start, end) in characters."""
    return [match.span() for match in _WORD.finditer(text)]
