"""Which rows are trained on and which are held out: decided by content and seed, not by position.

A row's place depends on its own text (or its group) and the seed, so that adding rows moves none between splits. Rows
that belong together (equal, nearly equal, or of one group) go to one side.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.split.near_duplicates import GOLDEN, join_pairs, mix
from tunesmith.errors import DataError

TRAIN, EVAL, TEST = 0, 1, 2
NAMES = {
    "train": TRAIN,
    "training": TRAIN,
    "eval": EVAL,
    "evaluation": EVAL,
    "validation": EVAL,
    "valid": EVAL,
    "val": EVAL,
    "dev": EVAL,
    "test": TEST,
    "testing": TEST,
}


def assign_splits(
    hashes: NDArray[np.uint64],
    groupings: Sequence[NDArray[np.uint64]],
    *,
    keys: NDArray[np.uint64],
    strata: NDArray[np.int32] | None,
    fractions: tuple[float, float],
    seed: int,
    where: str = "data",
) -> NDArray[np.int8]:
    """TRAIN, EVAL or TEST for each row.

    hashes: [N] of the rows' text. groupings: arrays [N] of labels; rows with an equal label stay together. keys: [N]
    what the place of a row depends on (its text or its group). strata: [N] codes whose values keep their share, or
    None. fractions: of eval and test. where: for messages. Raises DataError when every row belongs together and
    nothing can be held out.
    """
    labels = together(hashes, groupings)
    first_of, unit = np.unique(labels, return_inverse=True)
    places = uniform(keys[first_of], seed)
    if strata is None:
        sides = _sides(places, fractions)
    else:
        sides = np.zeros(len(places), dtype=np.int8)
        sizes = np.bincount(unit)
        for stratum in np.unique(strata[first_of]):
            members = np.flatnonzero(strata[first_of] == stratum)
            sides[members] = _ranked_sides(places[members], sizes[members], fractions)
    _ensure_sides(sides, places, fractions, where)
    return sides[unit]


def together(hashes: NDArray[np.uint64], groupings: Sequence[NDArray[np.uint64]]) -> NDArray[np.int64]:
    """[N] the first row of the set that each row belongs to: connected by equal text or by an equal label."""
    rows = np.arange(len(hashes))
    groups = rows
    for labels in (hashes, *groupings):
        _, first, code = np.unique(labels, return_index=True, return_inverse=True)
        groups = join_pairs(groups, first[code], rows)
    return groups


def uniform(keys: NDArray[np.uint64], seed: int) -> NDArray[np.float64]:
    """A number in [0, 1) for each key and the seed (splitmix64; Steele, Lea and Flood, 2014)."""
    mixed = mix((keys.astype(np.uint64) ^ mix(np.array([seed], dtype=np.uint64) + GOLDEN)) + GOLDEN)
    return (mixed >> np.uint64(11)).astype(np.float64) / float(1 << 53)


def _sides(places: NDArray[np.float64], fractions: tuple[float, float]) -> NDArray[np.int8]:
    eval_fraction, test_fraction = fractions
    sides = np.zeros(len(places), dtype=np.int8)
    sides[places < test_fraction + eval_fraction] = EVAL
    sides[places < test_fraction] = TEST
    return sides


def _ranked_sides(
    places: NDArray[np.float64], sizes: NDArray[np.int64], fractions: tuple[float, float]
) -> NDArray[np.int8]:
    """Sides whose sizes are as near to the fractions as whole units allow."""
    order = np.argsort(places, kind="stable")
    middles = (np.cumsum(sizes[order]) - sizes[order] / 2) / sizes.sum()
    sides = np.zeros(len(places), dtype=np.int8)
    sides[order] = _sides(middles, fractions)
    return sides


def _ensure_sides(
    sides: NDArray[np.int8], places: NDArray[np.float64], fractions: tuple[float, float], where: str
) -> None:
    """Give every split that was asked for at least one unit, taken from the training rows nearest to it; where there
    are none, from a split that has several."""
    wanted = [side for side, fraction in ((EVAL, fractions[0]), (TEST, fractions[1])) if fraction > 0]
    if len(sides) <= len(wanted) and wanted:
        raise DataError(
            f"{where}: {len(sides)} row or group of equal rows cannot fill {len(wanted) + 1} splits. Expected at "
            f"least {len(wanted) + 1} different rows (or groups, with data.group); rows that are nearly equal stay "
            "together unless data.near_duplicates is false. Add rows, or set data.eval_fraction: 0."
        )
    order = np.argsort(places, kind="stable")
    for side in wanted:
        if not (sides == side).any():
            counts = np.bincount(sides, minlength=3)
            spare = [unit for unit in order if sides[unit] == TRAIN or (counts[TRAIN] == 0 and counts[sides[unit]] > 1)]
            sides[spare[0]] = side
    if not (sides == TRAIN).any():
        counts = np.bincount(sides, minlength=3)
        sides[next(unit for unit in order[::-1] if counts[sides[unit]] > 1)] = TRAIN
