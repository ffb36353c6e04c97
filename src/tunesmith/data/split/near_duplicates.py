"""Which texts are almost the same: MinHash signatures, banded lookup, exact check of every candidate.

A text is the set of its 5-character shingles, lower-cased, white space collapsed, so that it works for scripts without
spaces too. Signatures are one-permutation hashes (Li, Owen and Zhang, 2012) with empty bins filled from hashed donor
bins (Shrivastava, 2017): one hash a character, whatever the signature length. Candidates that share a band are compared
by signature, and near the threshold by the sets themselves.

Nothing is random: equal texts in equal order give equal groups, on every machine. Memory: 512 bytes a text, in a
temporary file above 256 MiB, plus one block of texts.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

SHINGLE = 5
SIGNATURE = 256
_BLOCK_CHARACTERS = 1 << 20
_BLOCK_TEXTS = 4096
_FILE_ABOVE_BYTES = 256 << 20
_RECALL = 0.999  # of pairs exactly at the threshold, by the banding alone
_NEIGHBOURS = 8  # candidates a text meets in each band, besides the first of the band
_GREY = 0.15  # signatures this near the threshold are settled by the shingle sets
_EXACT_CHECKS = 200_000  # about ten seconds; beyond them signatures decide alone
_LARGE_SET = 1 << 15  # larger sets are compared on a sample of their hashes, the same for both sides

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # the increment of splitmix64

Hashes = NDArray[np.uint64]


def near_duplicate_groups(texts: Sequence[str], threshold: float = 0.8) -> NDArray[np.int64]:
    """Group id of each text; near-duplicates share one.

    A group id is the index of the group's first text. Groups are connected components: two texts of one group may be
    less similar than `threshold` when a third stands between them.

    Args:
        texts: N texts.
        threshold: Jaccard similarity of the shingle sets, in (0, 1].

    Returns:
        int64 [N].
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is {threshold}; expected a similarity in (0, 1]")
    groups = np.arange(len(texts), dtype=np.int64)
    if len(texts) < 2:
        return groups
    signatures = _signatures(texts)
    checker = _Checker(texts, signatures, threshold)
    for first, second in _candidates(signatures, threshold):
        apart = groups[first] != groups[second]
        first, second = first[apart], second[apart]
        if len(first):
            same = checker.similar(first, second)
            groups = join_pairs(groups, first[same], second[same])
    return groups


def similarity(first: str, second: str) -> float:
    """Jaccard similarity of two texts' shingle sets: 1.0 equal, 0.0 nothing shared."""
    return _jaccard(_shingles([_normalise(first)])[0], _shingles([_normalise(second)])[0])


def _normalise(text: str) -> str:
    return " ".join(text.lower().split()).ljust(SHINGLE)


def _shingles(texts: Sequence[str]) -> tuple[Hashes, NDArray[np.int64]]:
    """Hash of every shingle, and the index of the text that it stands in. Texts are normalised."""
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    points = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    starts = len(points) - SHINGLE + 1
    hashes = np.zeros(starts, dtype=np.uint64)
    for offset in range(SHINGLE):
        hashes *= GOLDEN
        hashes += points[offset : offset + starts]
    owners = np.repeat(np.arange(len(texts)), lengths)
    inside = owners[:starts] == owners[SHINGLE - 1 :]
    return mix(hashes[inside]), owners[:starts][inside]


def mix(hashes: Hashes) -> Hashes:
    """Finaliser of splitmix64 (Steele, Lea and Flood, 2014), in place: every input bit moves every output bit."""
    hashes ^= hashes >> np.uint64(30)
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    hashes ^= hashes >> np.uint64(27)
    hashes *= np.uint64(0x94D049BB133111EB)
    hashes ^= hashes >> np.uint64(31)
    return hashes


def _blocks(texts: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Index of the first text of a block, and its normalised texts."""
    begin, size, block = 0, 0, []
    for index in range(len(texts)):
        text = _normalise(texts[index])
        block.append(text)
        size += len(text)
        if size >= _BLOCK_CHARACTERS or len(block) >= _BLOCK_TEXTS:
            yield begin, block
            begin, size, block = index + 1, 0, []
    if block:
        yield begin, block


def _signatures(texts: Sequence[str]) -> NDArray[np.uint16]:
    """uint16 [N, SIGNATURE]: the low bits of the least hash in each bin."""
    signatures = _table(len(texts))
    donors = _donors()
    for begin, block in _blocks(texts):
        hashes, owners = _shingles(block)
        bins = np.full(len(block) * SIGNATURE, np.iinfo(np.uint32).max, dtype=np.uint32)
        places = owners * SIGNATURE + (hashes % np.uint64(SIGNATURE)).astype(np.int64)
        np.minimum.at(bins, places, (hashes >> np.uint64(33)).astype(np.uint32))
        signatures[begin : begin + len(block)] = _fill(bins.reshape(-1, SIGNATURE), donors).astype(np.uint16)
    return signatures


def _table(num_texts: int) -> NDArray[np.uint16]:
    shape = (num_texts, SIGNATURE)
    if math.prod(shape) * 2 <= _FILE_ABOVE_BYTES:
        return np.zeros(shape, dtype=np.uint16)
    with tempfile.TemporaryFile() as file:  # the mapping keeps the unlinked file alive
        file.truncate(math.prod(shape) * 2)
        return np.memmap(file, dtype=np.uint16, mode="r+", shape=shape)


def _donors() -> NDArray[np.int64]:
    """int64 [rounds, SIGNATURE]: from which bin an empty one is filled in each round."""
    numbers = np.arange(8 * SIGNATURE * SIGNATURE, dtype=np.uint64) + np.uint64(1)
    numbers *= GOLDEN
    return (mix(numbers) % np.uint64(SIGNATURE)).astype(np.int64).reshape(-1, SIGNATURE)


def _fill(bins: NDArray[np.uint32], donors: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Fill empty bins so that two texts agree in a bin with the probability of their similarity, however short."""
    empty_mark = np.iinfo(np.uint32).max
    filled = bins.copy()
    rows, columns = np.nonzero(bins == empty_mark)
    for round_donors in donors:
        if not len(rows):
            break
        values = bins[rows, round_donors[columns]]
        filled[rows, columns] = values
        still = values == empty_mark
        rows, columns = rows[still], columns[still]
    return filled


def _band_rows(threshold: float) -> int:
    """The longest band that still finds a pair at the threshold with probability _RECALL."""
    for num_rows in range(16, 1, -1):
        missed = (1 - threshold**num_rows) ** (SIGNATURE // num_rows)
        if missed <= 1 - _RECALL:
            return num_rows
    return 1


def _candidates(
    signatures: NDArray[np.uint16], threshold: float
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of texts that share a band: each with its nearest predecessors in the band and with the band's first."""
    num_rows = _band_rows(threshold)
    for begin in range(0, SIGNATURE - num_rows + 1, num_rows):
        keys = np.zeros(len(signatures), dtype=np.uint64)
        for column in range(begin, begin + num_rows):
            keys = mix(keys + signatures[:, column] + GOLDEN)
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        is_first = np.ones(len(keys), dtype=bool)
        is_first[1:] = keys[1:] != keys[:-1]
        first = np.maximum.accumulate(np.where(is_first, np.arange(len(keys)), 0))
        ranks = np.arange(len(keys)) - first
        if not ranks.any():
            continue
        later = np.flatnonzero(ranks > 0)
        yield order[first[later]], order[later]
        for distance in range(1, _NEIGHBOURS + 1):
            later = np.flatnonzero(ranks > distance)
            if not len(later):
                break
            yield order[later - distance], order[later]


class _Checker:
    """Decides pairs: by signature where that is clear, by the shingle sets where it is not."""

    def __init__(self, texts: Sequence[str], signatures: NDArray[np.uint16], threshold: float) -> None:
        self.texts = texts
        self.signatures = signatures
        self.threshold = threshold
        self.checks_left = _EXACT_CHECKS
        self.decided: dict[tuple[int, int], bool] = {}

    def similar(self, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.bool_]:
        agreement = np.empty(len(first))
        for begin in range(0, len(first), _BLOCK_TEXTS):
            part = slice(begin, begin + _BLOCK_TEXTS)
            agreement[part] = (self.signatures[first[part]] == self.signatures[second[part]]).mean(axis=1)
        verdict: NDArray[np.bool_] = agreement >= self.threshold
        for index in np.flatnonzero(np.abs(agreement - self.threshold) <= _GREY):
            verdict[index] = self._exact(int(first[index]), int(second[index]), bool(verdict[index]))
        return verdict

    def _exact(self, first: int, second: int, otherwise: bool) -> bool:
        if (first, second) in self.decided:
            return self.decided[first, second]
        if self.checks_left == 0:
            return otherwise
        self.checks_left -= 1
        verdict = similarity(self.texts[first], self.texts[second]) >= self.threshold
        self.decided[first, second] = verdict
        return verdict


def _jaccard(first: Hashes, second: Hashes) -> float:
    step = np.uint64(-(-max(len(first), len(second)) // _LARGE_SET))
    if step > 1:
        first, second = first[first % step == 0], second[second % step == 0]
    ours, theirs = set(first.tolist()), set(second.tolist())
    either = len(ours | theirs)
    return len(ours & theirs) / either if either else 0.0


def join_pairs(groups: NDArray[np.int64], first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """Groups after joining the given pairs; each keeps its smallest index as its id."""
    while len(first):
        ours, theirs = groups[first], groups[second]
        least = np.minimum(ours, theirs)
        roots = np.arange(len(groups))
        np.minimum.at(roots, ours, least)
        np.minimum.at(roots, theirs, least)
        while (roots[roots] != roots).any():
            roots = roots[roots]
        groups = roots[groups]
        apart = groups[first] != groups[second]
        first, second = first[apart], second[apart]
    return groups
