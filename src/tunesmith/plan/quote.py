"""What a run will take and cost, before it is paid for: on this machine, on a GPU, or on every GPU of the table."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse

from tunesmith.errors import DataError, ModelError, PlanError
from tunesmith.forecast.forecaster import Forecaster, Found, Target
from tunesmith.forecast.run import Forecast
from tunesmith.forecast.shapes import ModelShape, find_shape
from tunesmith.forecast.time import Measured, refit
from tunesmith.forecast.workload import Workload
from tunesmith.machine.detect import detect_machine
from tunesmith.machine.gpus import Gpu, find_gpu, gpu_of_device, gpus
from tunesmith.models.find import EMBEDDED, find_model
from tunesmith.plan.decide import decide, describe
from tunesmith.plan.search import alternatives, larger_gpu
from tunesmith.recipe import Recipe
from tunesmith.run.artefacts import Plan

if TYPE_CHECKING:
    from tunesmith.data import Data
    from tunesmith.models.tokenizer import TextTokenizer


@dataclass(frozen=True)
class Quote:
    """One device: what was decided for it, and what that takes."""

    target: Target
    plan: Plan
    found: Found
    forecast: Forecast
    cost: float | None
    """Price per hour times the hours of the whole run."""
    instead: tuple[Found, ...] = ()
    """What would fit when this does not."""
    larger: tuple[Gpu, Found] | None = None
    """The smallest GPU that holds what was asked when this does not."""

    def refitted(self, measured: Sequence[Measured], price: float | None) -> Quote:
        """With the time refitted to real steps of the device."""
        forecast = self.forecast.with_step_time(refit(self.forecast.step_time, measured))
        plan = self.plan.model_copy(update={"predicted": forecast.predicted()})
        return replace(self, plan=plan, forecast=forecast, cost=_cost(forecast, price))

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
            "cost": self.cost,
            "plan": self.plan.to_json(),
            "instead": [_settings(found) for found in self.instead],
            "larger_gpu": None if self.larger is None else {"gpu": self.larger[0].key, **_settings(self.larger[1])},
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
    price: float | None
    notes: tuple[str, ...] = field(default=())

    @property
    def plan(self) -> Plan:
        """What was decided for the first device."""
        return self.quotes[0].plan

    def refitted(self, measured: Sequence[Measured]) -> PlanReport:
        """With the time of this machine refitted to real steps; quotes for other machines stay."""
        quotes = tuple(quote.refitted(measured, self.price) if quote.target.here else quote for quote in self.quotes)
        return replace(self, quotes=quotes)

    def to_json(self) -> dict[str, object]:
        return {
            "model": self.shape.name,
            "num_parameters": self.shape.num_parameters,
            "shape_from": self.shape.origin,
            "data": self.workload.origin,
            "data_assumed": self.workload.assumed,
            "price_per_hour": self.price,
            "notes": list(self.notes),
            "quotes": [quote.to_json() for quote in self.quotes],
        }


def plan(
    recipe: Recipe,
    gpu: str | None = None,
    all_gpus: bool = False,
    price: float | None = None,
    data: Data | None = None,
    *,
    out: Path | None = None,
) -> PlanReport:
    """Forecast a recipe: on this machine, on `gpu`, or on every GPU of the table. Needs no weights and no GPU.

    price: of the machine per hour. data: the prepared data, when it is at hand; otherwise it is read, or, where that is
    not possible, assumed and said so. out: where the run will be written, for the room on that disk.

    Raises PlanError for an unknown GPU, a sequence longer than the model, or data without training documents;
    ModelError for a model whose config is not at hand or whose structure is not known; DataError for data that cannot
    be read.
    """
    if gpu is not None and all_gpus:
        raise PlanError("--gpu and --all-gpus exclude each other. Give one.")
    chosen = [Target.of_gpu(row) for row in gpus()] if all_gpus else [Target.of_gpu(find_gpu(gpu))] if gpu else []
    shape = find_shape(recipe.model.name, recipe.model.revision)
    workload, notes = _workload(recipe, data)
    if workload.assumed or recipe.train.loop == "reference":
        shape.check_length(recipe.train.max_length, "train.max_length")
    else:
        shape.check_length(max(workload.train.longest, workload.eval.longest), "the longest document")
    forecaster = Forecaster(recipe, shape, workload)
    targets = chosen or [_this_machine()]
    quotes = [_quote(forecaster, target, price, out, num_devices=len(targets)) for target in targets]
    return PlanReport(recipe, shape, workload, tuple(quotes), price, tuple(notes))


def _this_machine() -> Target:
    machine = detect_machine()
    return Target.of_machine(machine, gpu_of_device(machine.name) if machine.device == "cuda" else None)


def _quote(
    forecaster: Forecaster,
    target: Target,
    price: float | None,
    out: Path | None,
    *,
    num_devices: int,
) -> Quote:
    decided, found, forecast = decide(forecaster, target, out=out or Path())
    quote = Quote(target, decided, found, forecast, _cost(forecast, price))
    if found.fit != "no" or forecaster.recipe.train.loop != "tunesmith":
        return quote
    others = alternatives(forecaster, target, found)
    if num_devices > 1:
        return replace(quote, instead=tuple(islice(others, 1)))
    return replace(quote, instead=tuple(others), larger=larger_gpu(forecaster, target, found))


def _cost(forecast: Forecast, price: float | None) -> float | None:
    """Of the whole run, loading included."""
    return None if price is None else price * forecast.time.total_seconds / 3600


def _workload(recipe: Recipe, data: Data | None) -> tuple[Workload, list[str]]:
    """The documents' lengths: of the prepared data, of the data that the recipe names, or assumed."""
    if data is not None:
        return Workload.from_data(data), []
    path = recipe.data.path
    paths = [path] if isinstance(path, str) else [source.path for source in path]
    if any(name.startswith("hub:") for name in paths) and not _hub_answers():
        why = "data.path is on the hub, which does not answer (download the file and set data.path to it)"
        return Workload.assume(recipe, why), []
    tokenizer, notes = _tokenizer(recipe)
    if tokenizer is None:
        why = "no tokenizer is at hand (put the model's tokenizer.json beside its config.json)"
        return Workload.assume(recipe, why), []
    from tunesmith.data import prepare

    try:
        return Workload.from_data(prepare(recipe.data, tokenizer, recipe.train.max_length)), notes
    except DataError as error:
        if any(name.startswith("hub:") for name in paths):
            return Workload.assume(recipe, str(error)), []
        raise


def _tokenizer(recipe: Recipe) -> tuple[TextTokenizer | None, list[str]]:
    """The model's tokenizer; where it is not at hand, the embedded model's, whose counts are close."""
    from tunesmith.models.tokenizer import load_tokenizer

    asked = recipe.model
    if Path(asked.name).exists() or asked.name == EMBEDDED or _hub_answers():
        with contextlib.suppress(ModelError):
            return load_tokenizer(find_model(asked.name, asked.revision, weights=False)), []
    with contextlib.suppress(ModelError):
        tokenizer = load_tokenizer(find_model(EMBEDDED, weights=False))
        return tokenizer, [f"tokens are counted with the tokenizer of {EMBEDDED}; that of {asked.name} is not at hand"]
    return None, []


def _hub_answers() -> bool:
    """Whether asking the hub gets an answer soon: its client would try for half a minute."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or any(os.environ.get(name) for name in ("https_proxy", "HTTPS_PROXY", "ALL_PROXY")):
        return True
    host = urlparse(constants.ENDPOINT)
    try:
        socket.create_connection((host.hostname or "", host.port or 443), timeout=3).close()
    except OSError:
        return False
    return True
