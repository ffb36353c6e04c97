"""What a run will take and cost, before it is paid for: on this machine, on a GPU, or on every GPU of the table."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.errors import DataError, ModelError, PlanError
from tunesmith.forecast.forecaster import Forecaster, Found, Target
from tunesmith.forecast.run import Forecast
from tunesmith.forecast.shapes import ModelShape, find_shape
from tunesmith.forecast.time import Measured, refit
from tunesmith.forecast.workload import Workload
from tunesmith.machine.gpus import Gpu
from tunesmith.machine.prices import Prices, typical_prices
from tunesmith.models import reach
from tunesmith.models.find import EMBEDDED, find_model
from tunesmith.models.grow import find_asked, num_tokens
from tunesmith.models.positions import document_length
from tunesmith.plan.counts import Counts, beaten, check_counts, with_efficiency
from tunesmith.plan.decide import decide, describe
from tunesmith.plan.schedule import choose_tokens_per_step
from tunesmith.plan.search import alternatives, larger_gpu, more_gpus
from tunesmith.plan.targets import targets_of
from tunesmith.recipe import Recipe
from tunesmith.run.artefacts import Plan

if TYPE_CHECKING:
    from tunesmith.data import Data
    from tunesmith.models.tokenizer import TextTokenizer


Price = float | Sequence[str | float] | None
"""X, or X and NAME=X in any number; per hour."""


@dataclass(frozen=True)
class Quote:
    """One device: what was decided for it, and what that takes."""

    target: Target
    plan: Plan
    found: Found
    forecast: Forecast
    cost: float | None
    """Price per hour times the hours of the whole run."""
    price: float | None = None
    price_is_typical: bool = False
    """The price is that of the table, not one that the user gave."""
    instead: tuple[Found, ...] = ()
    """What would fit when this does not."""
    larger: tuple[Gpu, Found] | None = None
    """The smallest GPU that holds what was asked when this does not."""
    more: Found | None = None
    """Shards on several GPUs of this kind that hold what was asked when one does not."""
    efficiency: float | None = None
    """Of several GPUs: the speed of each, as a share of its speed in the smallest number that fits."""

    @property
    def num_processes(self) -> int:
        return self.target.num_processes

    @property
    def label(self) -> str:
        """`2 x NVIDIA A10`, or the name alone."""
        return self.target.name if self.num_processes == 1 else f"{self.num_processes} x {self.target.name}"

    def refitted(self, measured: Sequence[Measured]) -> Quote:
        """With the time refitted to real steps of the device."""
        forecast = self.forecast.with_step_time(refit(self.forecast.step_time, measured))
        plan = self.plan.model_copy(update={"predicted": forecast.predicted()})
        return replace(self, plan=plan, forecast=forecast, cost=_cost(forecast, self.price, self.target))

    def to_json(self) -> dict[str, object]:
        gpu = self.target.gpu
        return {
            "gpu": gpu.key if gpu is not None else None,
            "name": self.target.name,
            "fit": self.found.fit,
            "peak_bytes": self.forecast.memory.peak_bytes,
            "allocated_bytes": self.forecast.memory.allocated_bytes,
            "capacity_bytes": self.target.capacity_bytes,
            "train_seconds": self.forecast.time.train_seconds,
            "total_seconds": self.forecast.time.total_seconds,
            "price_per_hour": self.price,
            "price_is_typical": self.price_is_typical,
            "cost": self.cost,
            **self._of_processes(),
            "plan": self.plan.to_json(),
            "instead": [_settings(found) for found in self.instead],
            "larger_gpu": None if self.larger is None else {"gpu": self.larger[0].key, **_settings(self.larger[1])},
            "more_gpus": None
            if self.more is None
            else {"num_processes": self.more.num_processes, **_settings(self.more)},
        }

    def _of_processes(self) -> dict[str, object]:
        """How they work together."""
        network, time, tokens = self.target.network, self.forecast.step_time, self.forecast.step_tokens
        return {
            "num_processes": self.num_processes,
            "num_nodes": 1 if network is None else network.num_nodes,
            "interconnect": None if network is None else network.name,
            "sharding": self.found.choice.sharding,
            "step_seconds": self.forecast.step_seconds,
            "exchange_seconds": time.exchange.link_seconds(tokens),
            "waiting_seconds": time.waited_seconds(tokens),
            "tokens_per_process": time.exchange.own(tokens),
            "launch_bound": time.is_launch_bound(tokens),
            "efficiency": self.efficiency,
            "measured": False,
        }


def _settings(found: Found) -> dict[str, object]:
    return {"settings": describe(found), "peak_bytes": found.memory.peak_bytes, "fit": found.fit}


@dataclass(frozen=True)
class PlanReport:
    """The answer of `tunesmith plan`: a quote for each device."""

    recipe: Recipe
    shape: ModelShape
    workload: Workload
    quotes: tuple[Quote, ...]
    """Of several devices those that fit first, the cheapest run first."""
    prices: Prices
    notes: tuple[str, ...] = field(default=())
    fewer: tuple[Quote, ...] = ()
    """Of one kind of GPU in growing numbers, the asked one last; empty where one was asked for."""

    @property
    def plan(self) -> Plan:
        """What was decided for the first device."""
        return self.quotes[0].plan

    def refitted(self, measured: Sequence[Measured]) -> PlanReport:
        """With the time of this machine refitted to real steps; quotes for other machines stay."""
        quotes = tuple(quote.refitted(measured) if quote.target.here else quote for quote in self.quotes)
        return replace(self, quotes=quotes)

    def cheapest(self, seconds: float) -> Quote | None:
        """The cheapest device that finishes in that time, where a price is known."""
        found = (q for q in self.quotes if q.found.fit == "fits" and q.forecast.time.total_seconds <= seconds)
        return min((q for q in found if q.cost is not None), key=lambda quote: quote.cost or 0.0, default=None)

    def to_json(self) -> dict[str, object]:
        return {
            "model": self.shape.name,
            "num_parameters": self.shape.num_parameters,
            "shape_from": self.shape.origin,
            "data": self.workload.origin,
            "data_assumed": self.workload.assumed,
            "typical_prices": {"date": self.prices.date, "currency": self.prices.currency},
            "notes": list(self.notes),
            "quotes": [quote.to_json() for quote in self.quotes],
            "counts": [quote.to_json() for quote in self.fewer],
            "better": [{"gpus": many.label, "than": one.label} for many, one in beaten(self.quotes)],
        }


def plan(
    recipe: Recipe,
    gpu: str | None = None,
    all_gpus: bool = False,
    price: Price = (),
    data: Data | None = None,
    *,
    counts: Counts | None = None,
    out: Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> PlanReport:
    """Forecast a recipe: on this machine, on `gpu`, or on every GPU of the table. Needs no weights and no GPU.

    price: per hour, of this machine or of `gpu`; or several, `l4=0.8` for a GPU of the table. data: the prepared data,
    when it is at hand; otherwise it is read, or, where that is not possible, assumed and said so. counts: how many
    GPUs; the price is of one. out: where the run will be written, for the room on that disk. progress is told a stage,
    how many devices are done, and how many there are.

    Raises PlanError for an unknown GPU, more GPUs than a step has documents, a sequence longer than the model, or data
    without training documents; ModelError for a model whose config is not at hand or whose structure is not known;
    DataError for data that cannot be read.
    """
    if gpu is not None and all_gpus:
        raise PlanError("--gpu and --all-gpus exclude each other. Give one.")
    prices = typical_prices().with_asked([price] if isinstance(price, int | float) else price or ())
    if all_gpus and prices.one is not None:
        raise PlanError(f"--price {prices.one:g}: one price for every GPU ranks nothing. Give NAME=X, such as l4=0.8.")
    counts = counts or Counts()
    targets = targets_of(gpu, counts, all_gpus=all_gpus)
    shape = find_shape(recipe.model.name, recipe.model.revision)
    max_length = document_length(recipe.train.max_length, shape.max_positions)
    workload, notes = _workload(recipe, data, max_length)
    shape = _grown(recipe, shape, notes)
    if workload.assumed or recipe.train.loop == "reference":
        shape.check_length(max_length, "train.max_length")
    else:
        shape.check_length(max(workload.train.longest, workload.eval.longest), "the longest document")
    forecaster = Forecaster(recipe, shape, workload)
    tokens = choose_tokens_per_step(recipe, workload, targets[0][0], {})
    check_counts(forecaster, tokens, counts)
    made: list[tuple[Quote, ...]] = []
    for number, ladder in enumerate(targets):
        if progress is not None and len(targets) > 1:
            progress("planning for each GPU", number, len(targets))
        alone = len(targets) == 1
        made.append(with_efficiency([quote_of(forecaster, one, prices, out, alone=alone) for one in ladder]))
    several = counts.num_processes > 1
    quotes = [quote for ladder in made for quote in (ladder if all_gpus else ladder[-1:])]
    fewer = made[0] if several and not all_gpus else ()
    return PlanReport(recipe, shape, workload, tuple(sorted(quotes, key=_rank)), prices, tuple(notes), fewer)


def _rank(quote: Quote) -> tuple[int, float, float]:
    """What fits before what does not, then by cost, and by time where that is not known."""
    cost = math.inf if quote.cost is None else quote.cost
    return ("fits", "tight", "no").index(quote.found.fit), cost, quote.forecast.time.total_seconds


def quote_of(
    forecaster: Forecaster,
    target: Target,
    prices: Prices,
    out: Path | None,
    *,
    alone: bool,
) -> Quote:
    """What a run takes on one device. alone: of the only kind that is planned for."""
    decided, found, forecast = decide(forecaster, target, out=out or Path())
    gpu = None if target.here or target.gpu is None else target.gpu.key
    price, typical = prices.of(gpu, alone=alone), prices.is_typical(gpu, alone=alone)
    quote = Quote(target, decided, found, forecast, _cost(forecast, price, target), price, typical)
    if found.fit != "no" or forecaster.recipe.train.loop != "tunesmith":
        return quote
    others = alternatives(forecaster, target, found)
    if not alone:
        return replace(quote, instead=tuple(islice(others, 1)))
    larger, more = larger_gpu(forecaster, target, found), more_gpus(forecaster, target, found)
    return replace(quote, instead=tuple(others), larger=larger, more=more)


def _cost(forecast: Forecast, price: float | None, target: Target) -> float | None:
    """Of the whole run, loading included, on all GPUs. Processes without one share a machine."""
    number = target.num_processes if target.device == "cuda" else 1
    return None if price is None else price * number * forecast.time.total_seconds / 3600


def _workload(recipe: Recipe, data: Data | None, max_length: int) -> tuple[Workload, list[str]]:
    """The documents' lengths: of the prepared data, of the data that the recipe names, or assumed."""
    if data is not None:
        return Workload.from_data(data), []
    path = recipe.data.path
    paths = [path] if isinstance(path, str) else [source.path for source in path]
    if any(name.startswith(("hub:", "hf://")) for name in paths) and not reach.answers():
        why = "data.path is on the hub, which does not answer (download the file and set data.path to it)"
        return Workload.assume(recipe, why, max_length), []
    tokenizer, notes = _tokenizer(recipe)
    if tokenizer is None:
        why = "no tokenizer is at hand (put the model's tokenizer.json beside its config.json)"
        return Workload.assume(recipe, why, max_length), []
    from tunesmith.data import prepare
    from tunesmith.data.read.inputs import is_elsewhere

    try:
        return Workload.from_data(prepare(recipe.data, tokenizer, max_length)), notes
    except DataError as error:
        if any(is_elsewhere(name) for name in paths):
            return Workload.assume(recipe, str(error), max_length), []
        raise


def _grown(recipe: Recipe, shape: ModelShape, notes: list[str]) -> ModelShape:
    """The shape with a row for each token, where the recipe asks for that."""
    if not recipe.model.grow:
        return shape
    tokenizer, stands_in = _tokenizer(recipe)
    if tokenizer is None or stands_in:
        notes.append("model.grow: the model's tokenizer is not at hand, so that added rows are not counted")
        return shape
    return shape.with_rows(num_tokens(tokenizer))


def _tokenizer(recipe: Recipe) -> tuple[TextTokenizer | None, list[str]]:
    """The model's tokenizer; where it is not at hand, the embedded model's, whose counts are close."""
    from tunesmith.models.tokenizer import load_tokenizer

    asked = recipe.model
    if Path(asked.name).exists() or asked.name == EMBEDDED or reach.answers():
        with contextlib.suppress(ModelError):
            return load_tokenizer(find_asked(asked, weights=False)), []
    with contextlib.suppress(ModelError):
        tokenizer = load_tokenizer(find_model(EMBEDDED, weights=False))
        return tokenizer, [f"tokens are counted with the tokenizer of {EMBEDDED}; that of {asked.name} is not at hand"]
    return None, []
