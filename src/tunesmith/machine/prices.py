"""What an hour of a GPU costs: as the user says, or a table of typical prices, each with its date and source."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources

from tunesmith.errors import PlanError
from tunesmith.machine.gpus import find_gpu


@dataclass(frozen=True)
class Typical:
    """What an hour of a GPU cost in the month `date` (2026-03), by `source`."""

    price: float
    date: str
    source: str


@dataclass(frozen=True)
class Prices:
    """Prices per hour. `typical` comes from the table, in `currency`; it lacks what no source was found for."""

    typical: Mapping[str, Typical]
    currency: str
    asked: Mapping[str, float] = field(default_factory=dict)
    """By key of a GPU, as the user gave them; in any currency, so use one."""
    one: float | None = None
    """Of this machine, or of the one GPU that is planned for."""

    @property
    def date(self) -> str:
        """Of the table: from its oldest to its newest price."""
        dates = [typical.date for typical in self.typical.values()]
        return f"{min(dates)} to {max(dates)}"

    def of(self, gpu: str | None, *, alone: bool = False) -> float | None:
        """Of a GPU of the table, None where it is not known; None as the key: of this machine.

        alone: the one device that is planned for.
        """
        if alone and self.one is not None:
            return self.one
        if gpu is None:
            return None
        return self.asked[gpu] if gpu in self.asked else self.typical[gpu].price if gpu in self.typical else None

    def is_typical(self, gpu: str | None, *, alone: bool = False) -> bool:
        """Whether the price of a GPU is the table's, which must be looked up before it is relied on."""
        return not (alone and self.one is not None) and gpu not in self.asked and gpu in self.typical

    def to_json(self, gpu: str) -> dict[str, object]:
        """The table's row of a GPU; nulls where it has none."""
        row = self.typical.get(gpu)
        if row is None:
            return {"price_per_hour": None, "price_date": None, "price_source": None}
        return {"price_per_hour": row.price, "price_date": row.date, "price_source": row.source}

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
    return Prices({key: Typical(**row) for key, row in table["per_hour"].items()}, table["currency"])


def _number(value: str, text: str) -> float:
    try:
        price = float(value)
    except ValueError:
        price = -1.0
    if not 0 <= price < float("inf"):
        raise PlanError(f"--price {text}: expected a price per hour, such as 2.5, or NAME=X, such as l4=0.8.")
    return price
