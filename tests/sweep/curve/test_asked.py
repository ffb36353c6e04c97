"""Which shares make sense, and what is said of those that do not."""

from __future__ import annotations

import pytest

from tunesmith.errors import SweepError
from tunesmith.recipe import Recipe
from tunesmith.sweep.curve.asked import Asked, check_asked, read_shares

RECIPE = Recipe(model={"name": "somewhere"}, data={"path": "x.csv", "text": "t"})


def test_shares_are_read() -> None:
    assert read_shares("0.05,0.1, 0.2,1") == (0.05, 0.1, 0.2, 1.0)


@pytest.mark.parametrize(
    "text", ["0.1,0.2", "0.2,0.1,0.3", "0.1,0.1,0.2", "0,0.1,0.2", "0.1,0.5,1.1", "5%,10%,20%", ""]
)
def test_what_are_no_shares_says_how_they_look(text: str) -> None:
    with pytest.raises(SweepError, match=r"at least three shares, increasing, above 0 and at most 1"):
        read_shares(text)


def test_too_few_rows_say_the_least_number() -> None:
    check_asked(Asked(), RECIPE, 400, 100)
    with pytest.raises(SweepError, match=r"0\.05 of 380 training rows are 19; at least 20 .* takes 400 rows"):
        check_asked(Asked(), RECIPE, 380, 100)


def test_all_problems_are_told_at_once() -> None:
    asked = RECIPE.with_values(**{"train.max_steps": 5})
    with pytest.raises(SweepError, match=r"(?s)no rows are held out.*max_steps 5: .*at least 20 are needed"):
        check_asked(Asked(), asked, 100, 0)
