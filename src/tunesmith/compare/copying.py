"""Which parts of a text stand word for word in the training rows, and which row is nearest.

A span counts as copied when at least `MIN_COPIED_WORDS` words in a row (punctuation included, case ignored) occur in
one training row. Real held-out texts share spans with the training rows too (set phrases, names): their rate is the
yardstick.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.compare.words import word_spans, words

MIN_COPIED_WORDS = 8
_ROWS_AT_ONCE = 20_000
_TEXTS_AT_ONCE = 64

Array = NDArray[np.int64]


@dataclass(frozen=True)
class Copied:
    """What one text shares with the training rows."""

    longest: int
    """Words in the longest span that stands in a training row."""
    longest_row: int | None
    """Index of the first training row that holds this span; None when no word is shared."""
    spans: tuple[tuple[int, int], ...]
    """(start, end) in characters of every copied span, merged where they touch."""
    share: float
    """Share of the text's words that lie in copied spans."""


def find_copies(texts: Sequence[str], rows: Iterable[str], *, min_words: int = MIN_COPIED_WORDS) -> list[Copied]:
    """Look for the spans of `texts` in `rows`. Reads the rows once, in pieces; memory grows with a piece, not with all.

    Returns one `Copied` per text.
    """
    texts_words = [words(text) for text in texts]
    lengths = [np.zeros(len(text), np.int64) for text in texts_words]
    sources = [np.full(len(text), -1, np.int64) for text in texts_words]
    first_row = 0
    for piece in _pieces(rows, _ROWS_AT_ONCE):
        for known, source, (found, found_in) in zip(lengths, sources, _match(texts_words, piece), strict=True):
            longer = found > known
            known[longer] = found[longer]
            source[longer] = found_in[longer] + first_row
        first_row += len(piece)
    return [
        _summarise(text, length, source, min_words)
        for text, length, source in zip(texts, lengths, sources, strict=True)
    ]


def _pieces(rows: Iterable[str], size: int) -> Iterator[list[list[str]]]:
    iterator = iter(rows)
    while piece := [words(row) for row in islice(iterator, size)]:
        yield piece


def _match(texts: Sequence[Sequence[str]], rows: Sequence[Sequence[str]]) -> list[tuple[Array, Array]]:
    """Per text and word position: the longest run of words from there that stands in a row, and the first such row.

    Grows all runs by one word at a time. Both sides keep only the positions that still match, named by the rank of
    their run among the texts' runs, so that the work shrinks quickly and no hash can collide.
    """
    identities: dict[str, int] = {}
    for text in texts:
        for word in text:
            identities.setdefault(word, len(identities) + 1)
    base = len(identities) + 1
    text_ids = _join([[identities[word] for word in text] for text in texts])
    row_ids = _join([[identities.get(word, 0) for word in row] for row in rows])
    row_numbers = np.repeat(np.arange(len(rows)), [len(row) + 1 for row in rows])
    length, source = np.zeros(len(text_ids), np.int64), np.full(len(text_ids), -1, np.int64)
    text_at, row_at = np.flatnonzero(text_ids), np.flatnonzero(row_ids)
    text_rank, row_rank = np.zeros(len(text_at), np.int64), np.zeros(len(row_at), np.int64)
    run = 0
    while len(text_at) and len(row_at):
        text_at, text_rank = _grow(text_ids, text_at, text_rank, run, base)
        row_at, row_rank = _grow(row_ids, row_at, row_rank, run, base)
        runs, row_first = np.unique(row_rank, return_index=True)
        kept = np.isin(text_rank, runs)
        text_at, text_rank = text_at[kept], text_rank[kept]
        shared = np.unique(text_rank)
        kept = np.isin(row_rank, shared)
        run += 1
        length[text_at] = run
        source[text_at] = row_numbers[row_at[row_first[np.searchsorted(runs, text_rank)]]] if len(text_at) else -1
        row_at, row_rank = row_at[kept], np.searchsorted(shared, row_rank[kept])
        text_rank = np.searchsorted(shared, text_rank)
    ends = np.cumsum([len(text) + 1 for text in texts])
    return [
        (length[end - len(t) - 1 : end - 1], source[end - len(t) - 1 : end - 1])
        for t, end in zip(texts, ends, strict=True)
    ]


def _join(sequences: Sequence[Sequence[int]]) -> Array:
    """All sequences in one array, a 0 after each, so that no run crosses a border."""
    return np.fromiter((item for sequence in sequences for item in (*sequence, 0)), np.int64)


def _grow(ids: Array, at: Array, rank: Array, run: int, base: int) -> tuple[Array, Array]:
    """Runs of `run` words, one word longer; those that meet an unknown word or the end of a text are left out."""
    following = ids[at + run]
    kept = following > 0
    return at[kept], rank[kept] * base + following[kept]


def _summarise(text: str, length: Array, source: Array, min_words: int) -> Copied:
    if not len(length) or not length.max():
        return Copied(0, None, (), 0.0)
    best = int(length.argmax())
    covered = np.zeros(len(length), bool)
    for start in np.flatnonzero(length >= min_words):
        covered[start : start + length[start]] = True
    spans = word_spans(text)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], covered.view(np.int8), [0]])))
    copied = tuple((spans[first][0], spans[last - 1][1]) for first, last in zip(edges[::2], edges[1::2], strict=True))
    return Copied(int(length[best]), int(source[best]), copied, float(covered.mean()))


@dataclass(frozen=True)
class Nearest:
    """The training row most like a text."""

    row: int
    """Index of the row."""
    similarity: float
    """Cosine of the TF-IDF vectors of words and word pairs: 0 nothing in common, 1 the same words."""


class NearestRows:
    """Rows by their words and word pairs, ready to be asked which is nearest to a text."""

    def __init__(self, rows: Sequence[str]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._vectorizer = TfidfVectorizer(analyzer=words_and_pairs, sublinear_tf=True, dtype=np.float32)
        self._rows: Any = self._vectorizer.fit_transform(rows) if any(words(row) for row in rows) else None

    def nearest(self, texts: Sequence[str]) -> list[Nearest | None]:
        """The row nearest to each text; None for a text that shares no word with any row."""
        found: list[Nearest | None] = []
        if self._rows is None:
            return [None] * len(texts)
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            part = self._vectorizer.transform(texts[start : start + _TEXTS_AT_ONCE])
            similarity = (part @ self._rows.T).toarray()
            for scores in similarity:
                best = int(scores.argmax())
                found.append(Nearest(best, min(float(scores[best]), 1.0)) if scores[best] > 0 else None)
        return found


def find_nearest(texts: Sequence[str], rows: Sequence[str]) -> list[Nearest | None]:
    """The row of `rows` nearest to each text; None for a text that shares no word with any row."""
    return NearestRows(rows).nearest(texts)


def words_and_pairs(text: str) -> list[str]:
    """The words of a text and every two neighbours: the features of style and nearness."""
    single = words(text)
    return single + [f"{first} {second}" for first, second in pairwise(single)]
