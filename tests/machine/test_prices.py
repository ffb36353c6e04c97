"""What an hour of a GPU costs: the user's word before the table's."""

from __future__ import annotations

import pytest

from tunesmith.errors import PlanError
from tunesmith.machine.gpus import gpus
from tunesmith.machine.prices import typical_prices


def test_the_table_is_dated_and_of_known_gpus() -> None:
    prices = typical_prices()
    assert len(prices.date) == 7
    assert set(prices.typical) <= {gpu.key for gpu in gpus()}
    assert all(0.05 < price < 20 for price in prices.typical.values())


def test_what_the_user_says_comes_first() -> None:
    prices = typical_prices().with_asked(["l4=0.8", "A100 80GB=1.9", "2.5"])
    assert (prices.of("l4"), prices.of("a100-80gb")) == (0.8, 1.9)
    assert prices.of("t4") == typical_prices().of("t4")
    assert prices.of("t4", alone=True) == prices.of(None, alone=True) == 2.5
    assert not prices.is_typical("l4")
    assert not prices.is_typical("t4", alone=True)
    assert prices.is_typical("t4")


def test_this_machine_has_no_typical_price() -> None:
    assert typical_prices().of(None, alone=True) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["cheap"], r"--price cheap: expected a price per hour"),
        (["l4=-1"], r"--price l4=-1: expected a price"),
        (["l4=nan"], r"--price l4=nan: expected a price"),
        (["l5=1"], r"--gpu l5: not a GPU in the table"),
        (["1", "2"], r"--price 2: a second price without a name"),
    ],
)
def test_what_is_no_price_is_refused(given: list[str], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        typical_prices().with_asked(given)
