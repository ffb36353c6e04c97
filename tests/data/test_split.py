"""Splits by content: what stays together, what keeps its place."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tunesmith.data.rows.spool import hash_text
from tunesmith.data.split.assign import EVAL, TEST, TRAIN, assign_splits, together, uniform
from tunesmith.data.split.beginnings import shared_beginnings


def hashes(count: int, start: int = 0) -> np.ndarray:
    return np.array([hash_text(f"row {i}".encode()) for i in range(start, start + count)], dtype=np.uint64)


def split(keys: np.ndarray, fractions: tuple[float, float] = (0.2, 0.1), **values: object) -> np.ndarray:
    values = {"groupings": [], "keys": keys, "strata": None, "seed": 7} | values
    return assign_splits(keys, fractions=fractions, **values)  # type: ignore[arg-type]


def test_shares_are_near_the_fractions() -> None:
    counts = np.bincount(split(hashes(10_000)))
    assert abs(counts[EVAL] - 2000) < 120
    assert abs(counts[TEST] - 1000) < 100


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 300), st.integers(1, 300), st.integers(0, 1000))
@example(before=2, added=1, seed=539)  # all three are held out by their places, and none for the test
def test_adding_rows_moves_none(before: int, added: int, seed: int) -> None:
    few = split(hashes(before), seed=seed) if before > 2 else None
    many = split(hashes(before + added), seed=seed)
    natural = np.select(
        [uniform(hashes(before), seed) < 0.1, uniform(hashes(before), seed) < 0.1 + 0.2], [TEST, EVAL], TRAIN
    )
    if few is not None and set(natural) == {TRAIN, EVAL, TEST}:  # otherwise a row is moved to fill an empty split
        assert (few == natural).all()
        assert (many[:before] == natural).all()


def test_together_joins_through_chains() -> None:
    ours = hashes(6)
    ours[5] = ours[0]  # 0-5 by text, 0-1 by one label, 1-2 by another; 3 and 4 alone
    first = np.array([1, 1, 2, 3, 4, 5], dtype=np.uint64)
    second = np.array([1, 2, 2, 3, 4, 5], dtype=np.uint64)
    assert together(ours, [first, second]).tolist() == [0, 0, 0, 3, 4, 0]


def test_strata_keep_their_share_exactly() -> None:
    strata = np.arange(1000) % 10 == 0
    sides = split(hashes(1000), strata=strata.astype(np.int32))
    for stratum in (True, False):
        counts = np.bincount(sides[strata == stratum])
        assert counts[EVAL] == round(0.2 * counts.sum())
        assert counts[TEST] == round(0.1 * counts.sum())


def test_every_split_that_was_asked_for_gets_a_row() -> None:
    for seed in range(50):
        assert set(split(hashes(3), (0.001, 0.001), seed=seed)) == {TRAIN, EVAL, TEST}
        assert set(split(hashes(2), (0.99, 0.0), seed=seed)) == {TRAIN, EVAL}


def spans(texts: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    lengths = np.array([len(text.encode()) for text in texts])
    ends = np.cumsum(lengths)
    return np.frombuffer("".join(texts).encode(), dtype=np.uint8), ends - lengths, ends


def test_shared_beginnings_are_found_in_whole_blocks() -> None:
    header = "You are a helpful assistant that never tires of answering questions. "
    texts = [f"{header}{i} is the number that this row of the table is about" for i in range(30)]
    texts += [f"Row {i} begins in its own way, and goes on like all others do here" for i in range(30)]
    skipped = shared_beginnings(*spans(texts))
    assert set(skipped[:30]) == {64}
    assert set(skipped[30:]) == {0}


def test_equal_rows_keep_their_last_block() -> None:
    skipped = shared_beginnings(*spans(["the same words over and over again, " * 4] * 40))
    assert set(skipped) == {96}
