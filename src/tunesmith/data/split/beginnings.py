"""Beginnings that many rows share: a system prompt, the words of a template.

They say nothing about whether two rows are alike, so near-duplicates are looked for in what follows them; otherwise a
long system prompt would make every conversation a near-duplicate of every other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES = 32
MIN_ROWS = 20
MIN_SHARE = 0.02


def without_shared_beginnings(texts: Sequence[str]) -> list[str]:
    """The texts from where they are their own."""
    data = [text.encode("utf-8", "surrogatepass") for text in texts]
    ends = np.cumsum([len(part) for part in data], dtype=np.int64)
    begins = ends - np.array([len(part) for part in data], dtype=np.int64)
    skipped = shared_beginnings(np.frombuffer(b"".join(data), dtype=np.uint8), begins, ends)
    return [part[skip:].decode("utf-8", "ignore") for part, skip in zip(data, skipped.tolist(), strict=True)]


def shared_beginnings(text: NDArray[np.uint8], begins: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """[N] bytes at the beginning of each row text[begin:end] that at least 2% of all rows (and 20) begin with too.

    Counted in blocks of 32 bytes; the last block of a row is always its own.
    """
    skipped = np.zeros(len(begins), dtype=np.int64)
    least = max(MIN_ROWS, MIN_SHARE * len(begins))
    groups: dict[bytes, list[int]] = {b"": list(range(len(begins)))}
    depth = 0
    while groups:
        depth += BLOCK_BYTES
        deeper: dict[bytes, list[int]] = {}
        for rows in groups.values():
            deeper |= _split(text, begins, ends, rows, depth, least)
        for rows in deeper.values():
            skipped[rows] = depth
        groups = deeper
    return skipped


def _split(
    text: NDArray[np.uint8],
    begins: NDArray[np.int64],
    ends: NDArray[np.int64],
    rows: list[int],
    depth: int,
    least: float,
) -> dict[bytes, list[int]]:
    """The rows that go on alike for one more block, by their first `depth` bytes; only large groups."""
    blocks = {
        row: text[begins[row] + depth - BLOCK_BYTES : begins[row] + depth].tobytes()
        for row in rows
        if ends[row] - begins[row] >= depth + BLOCK_BYTES
    }
    counts = Counter(blocks.values())
    groups: dict[bytes, list[int]] = {}
    for row, block in blocks.items():
        if counts[block] >= least:
            groups.setdefault(block, []).append(row)
    return {text[begins[same[0]] : begins[same[0]] + depth].tobytes(): same for same in groups.values()}
