"""What an hour of a GPU costs: the user's word before the table's."""

from __future__ import annotations

import re

import pytest

from tunesmith.errors import PlanError
from tunesmith.machine.gpus import gpus
from tunesmith.machine.prices import typical_prices


def test_every_price_has_a_date_and_a_source_and_is_of_a_known_gpu() -> None:
    prices = typical_prices()
    assert set(prices.typical) <= {gpu.key for gpu in gpus()}
    for key, row in prices.typical.items():
        assert 0.05 < row.price < 20, key
        assert re.fullmatch(r"20\d\d-(0[1-9]|1[0-2])", row.date), key
        assert re.match(r"https://\w", row.source), key
    assert prices.date == "2026-03 to 2026-11"


def test_what_has_no_source_has_no_price() -> None:
    prices = typical_prices()
    unpriced = {gpu.key for gpu in gpus()} - set(prices.typical)
    assert {"t4", "a40", "mi300x"} <= unpriced
    assert {prices.of(key) for key in unpriced} == {None}
    assert set(prices.to_json("t4").values()) == {None}
    assert prices.to_json("l4")["price_source"] == prices.typical["l4"].source


def test_what_the_user_says_comes_first() -> None:
    prices = typical_prices().with_asked(["l4=0.8", "A100 80GB=1.9", "2.5"])
    assert (prices.of("l4"), prices.of("a100-80gb")) == (0.8, 1.9)
    assert prices.of("h200") == typical_prices().of("h200")
    assert prices.of("t4", alone=True) == prices.of(None, alone=True) == 2.5
    assert not prices.is_typical("l4")
    assert not prices.is_typical("t4", alone=True)
    assert prices.is_typical("h200")


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
