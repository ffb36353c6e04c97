"""A few sizes for all batches of a run, so that each step has one of a few shapes.

Steps are cut from the stream of tokens, so their sizes lie close together: filled up to the largest in reach, most runs
have one to three sizes. What is filled up is computed in vain, so a batch joins a size only when little is missing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tunesmith.fast.batches.layout import Size, fillers

Counts = NDArray[np.int64]

MAX_SIZES = 8
"""Each is recorded once, which takes about as long as two of its steps, and keeps its launches."""
MAX_FILL = 0.06
"""Largest share of a batch's tokens that may be filled up."""
FEWEST_BATCHES = 4
"""A size of fewer is not worth being recorded."""
TOKENS, TARGETS, DOCUMENTS = 16, 64, 8
"""What tokens, rows of the head and places are rounded up to."""
MOSTLY = 0.9
"""From this share of supervised rows on, the head sees all: a gather costs more than the rows."""


def choose_sizes(tokens: Counts, targets: Counts, documents: Counts, longest: int) -> tuple[Size, ...]:
    """Sizes for the batches of a run, smallest first; at most `MAX_SIZES`.

    tokens, targets, documents: [N] fed tokens, supervised ones and documents of each batch. longest: fed tokens of the
    longest document of all. Batches of rare sizes get none.
    """
    if not len(tokens):
        return ()
    order, groups, begin = np.argsort(-tokens, kind="stable"), list[Counts](), 0
    falling = -tokens[order]
    while begin < len(order):
        largest = _round_up(int(tokens[order[begin]]), TOKENS)
        least = largest - int(MAX_FILL * largest)
        end = max(begin + 1, int(np.searchsorted(falling, -least, side="right")))
        groups.append(order[begin:end])
        begin = end
    groups = [group for group in groups if len(group) >= FEWEST_BATCHES]
    groups = sorted(groups, key=len, reverse=True)[:MAX_SIZES]
    return tuple(sorted(_size(tokens[g], targets[g], documents[g], longest) for g in groups))


def size_for(sizes: tuple[Size, ...], tokens: int, targets: int, documents: int) -> Size | None:
    """The smallest size that holds such a batch with little filling up."""
    for size in sizes:
        if size.holds(tokens, targets, documents) and size.tokens - tokens <= MAX_FILL * size.tokens:
            return size
    return None


def _size(tokens: Counts, targets: Counts, documents: Counts, longest: int) -> Size:
    """The smallest that holds all of a group."""
    largest, most = _round_up(int(tokens.max()), TOKENS), int(targets.max())
    rows = min(largest, _round_up(most, TARGETS))
    places = max(
        int(number) + fillers(largest - int(fed), longest) for fed, number in zip(tokens, documents, strict=True)
    )
    return Size(largest, largest if rows >= MOSTLY * largest else rows, _round_up(places, DOCUMENTS), longest)


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
