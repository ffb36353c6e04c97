"""What an hour of a GPU costs: as the user says, or a dated table of typical prices."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources

from tunesmith.errors import PlanError
from tunesmith.machine.gpus import find_gpu


@dataclass(frozen=True)
class Prices:
    """Prices per hour. `typical` comes from the table, which is of `date` and in `currency`."""

    typical: Mapping[str, float]
    date: str
    currency: str
    asked: Mapping[str, float] = field(default_factory=dict)
    """By key of a GPU, as the user gave them; in any currency, so use one."""
    one: float | None = None
    """Of this machine, or of the one GPU that is planned for."""

    def of(self, gpu: str | None, *, alone: bool = False) -> float | None:
        """Of a GPU of the table, None where it is not known; None as the key: of this machine.

        alone: the one device that is planned for.
        """
        if alone and self.one is not None:
            return self.one
        if gpu is None:
            return None
        return self.asked.get(gpu, self.typical.get(gpu))

    def is_typical(self, gpu: str | None, *, alone: bool = False) -> bool:
        """Whether the price of a GPU is the table's, which must be looked up before it is relied on."""
        return not (alone and self.one is not None) and gpu not in self.asked and gpu in self.typical

    def with_asked(self, given: Sequence[str | float]) -> Prices:
        """With what --price says: X once, NAME=X as often as wanted. Raises PlanError for what is neither."""
        asked, one = dict(self.asked), self.one
        for text in given:
            name, equals, value = str(text).rpartition("=")
            price = _number(value, str(text))
            if equals:
                asked[find_gpu(name).key] = price
            elif one is not None:
                raise PlanError(f"--price {text}: a second price without a name. Give NAME=X for each GPU.")
            else:
                one = price
        return replace(self, asked=asked, one=one)


@cache
def typical_prices() -> Prices:
    """The table that ships with the package."""
    text = resources.files("tunesmith").joinpath("assets/gpu-prices.json").read_text(encoding="utf-8")
    table = json.loads(text)
    return Prices(table["per_hour"], table["date"], table["currency"])


def _number(value: str, text: str) -> float:
    try:
        price = float(value)
    except ValueError:
        price = -1.0
    if not 0 <= price < float("inf"):
        raise PlanError(f"--price {text}: expected a price per hour, such as 2.5, or NAME=X, such as l4=0.8.")
    return price
