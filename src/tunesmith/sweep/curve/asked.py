"""Which shares of the rows are trained, and whether they make sense."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from tunesmith.errors import SweepError
from tunesmith.recipe import Recipe

DEFAULT_SHARES = (0.05, 0.1, 0.2)
MIN_SHARES = 3
"""A level, a slope and a bend."""
MIN_ROWS = 20
"""Of the smallest share: the loss of fewer says more about these rows than about their number."""
_HOW = "Expected at least three shares, increasing, above 0 and at most 1, such as 0.05,0.1,0.2."


@dataclass(frozen=True)
class Asked:
    """Shares of the training rows, and the name of a bigger model to try at the smallest."""

    shares: tuple[float, ...] = DEFAULT_SHARES
    bigger: str | None = None


def read_shares(text: str) -> tuple[float, ...]:
    """What --shares says. Raises SweepError for what is no list of increasing shares."""
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise SweepError(f"--shares {text}: {_HOW}") from None
    increases = all(before < after for before, after in pairwise(shares))
    if len(shares) < MIN_SHARES or not increases or not all(0 < share <= 1 for share in shares):
        raise SweepError(f"--shares {text}: {_HOW}")
    return shares


def rows_in(share: float, num_rows: int) -> int:
    """Rows of a share, at least one."""
    return max(1, round(share * num_rows))


def check_asked(asked: Asked, recipe: Recipe, num_rows: int, num_held_out_tokens: int) -> None:
    """Raises SweepError for what makes no curve: nothing held out, too few rows, a number of steps that is fixed."""
    problems = []
    if num_held_out_tokens == 0:
        problems.append("no rows are held out, so shares cannot be compared. Set data.eval_fraction.")
    if recipe.train.max_steps is not None:
        problems.append(
            f"train.max_steps {recipe.train.max_steps}: each share is trained on all of its rows. Leave max_steps out."
        )
    smallest = asked.shares[0]
    if rows_in(smallest, num_rows) < MIN_ROWS:
        problems.append(
            f"{smallest:.3g} of {num_rows:,} training rows are {rows_in(smallest, num_rows)}; at least {MIN_ROWS} are "
            f"needed to learn anything. It takes {math.ceil(MIN_ROWS / smallest):,} rows, or larger --shares."
        )
    if problems:
        raise SweepError("\n".join(f"sweep --data-curve: {problem}" for problem in problems))
