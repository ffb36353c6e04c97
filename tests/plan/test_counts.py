"""The same run on more GPUs: what each holds, waits for and costs; and what is refused."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tunesmith import api
from tunesmith.errors import PlanError
from tunesmith.forecast.forecaster import FITS, Choice, Forecaster, Target
from tunesmith.forecast.shapes import ModelShape
from tunesmith.forecast.tracing.step import Step
from tunesmith.forecast.tracing.trace import Log
from tunesmith.forecast.workload import Workload
from tunesmith.machine.detect import detect_machine
from tunesmith.machine.gpus import find_gpu
from tunesmith.plan import targets
from tunesmith.plan.counts import Counts, beaten, with_efficiency
from tunesmith.plan.decide import decide, describe, does_not_fit
from tunesmith.plan.quote import PlanReport, plan, quote_of
from tunesmith.plan.search import alternatives, cannot_shard, more_gpus
from tunesmith.recipe import Recipe
from tunesmith.show.plan import print_report

NewRecipe = Callable[..., Recipe]


@pytest.fixture
def recipe(tiny_llama: Path, shows_csv: Path) -> NewRecipe:
    """recipe(**values of the train section)"""

    def make(**train: Any) -> Recipe:
        section = {"path": str(shows_csv), "text": "description", "max_rows": 80, "eval_fraction": 0.2}
        values = {"max_length": 256, "tokens_per_step": 1200, **train}
        return Recipe(model={"name": str(tiny_llama)}, data=section, train=values)

    return make


def printed(report: PlanReport) -> str:
    out = io.StringIO()
    print_report(report, Console(file=out, width=200))
    return out.getvalue()


def test_more_gpus_are_a_row_each_and_the_asked_number_is_decided(recipe: NewRecipe) -> None:
    report = plan(recipe(), gpu="l4", price=0.5, counts=Counts.of(4))
    (quote,) = report.quotes
    assert [row.num_processes for row in report.fewer] == [1, 2, 4]
    assert (report.plan.num_processes, report.plan.sharding, quote.label) == (4, "none", "4 x NVIDIA L4")
    assert quote.cost == pytest.approx(4 * 0.5 * quote.forecast.time.total_seconds / 3600)
    assert report.fewer[0].efficiency == 1
    assert report.fewer[2].efficiency is not None
    assert report.fewer[2].efficiency < 1
    own = [row.forecast.step_time.exchange.own(row.forecast.step_tokens) for row in report.fewer]
    assert own[0] > own[1] > own[2] >= own[0] / 4
    text = printed(report)
    for part in ("joined by PCIe 4.0 x16", "efficiency", "1 GPU = 100%", "they were not measured", "wait for their"):
        assert part in text
    told = json.loads(json.dumps(report.to_json()))["counts"][2]
    assert (told["num_processes"], told["interconnect"], told["measured"]) == (4, "PCIe 4.0 x16", False)
    assert told["waiting_seconds"] > 0
    assert told["exchange_seconds"] >= told["waiting_seconds"]


def test_a_slower_interconnect_makes_longer_steps(recipe: NewRecipe) -> None:
    def seconds(*names: str, nodes: int | None = None, procs: int = 2) -> float:
        report = plan(recipe(), gpu="a100-80gb", counts=Counts.of(procs, nodes, names))
        return report.quotes[0].forecast.step_time.exchange.sum_seconds

    assert seconds() == seconds("nvlink-3") < seconds("pcie-3") < seconds("ethernet-10", nodes=2, procs=1)


def test_every_gpu_is_told_in_the_number_that_is_cheapest_and_fastest(recipe: NewRecipe) -> None:
    report = plan(recipe(), all_gpus=True, price=["t4=0.01"], counts=Counts.of(2))
    assert {quote.num_processes for quote in report.quotes} == {1, 2}
    text = printed(report)
    assert "Tesla T4" in text
    assert len(report.to_json()["quotes"]) == 60  # type: ignore[arg-type]


@pytest.fixture
def wide(wide_config: Any) -> ModelShape:
    return ModelShape("wide", wide_config, 850_000, "made here")


def quote(recipe: Recipe, shape: ModelShape, workload: Workload, gpu: str, number: int, price: float) -> Any:
    from tunesmith.machine.prices import typical_prices

    row = find_gpu(gpu)
    target = Target.of_gpu(row, Counts.of(number).network(row))
    prices = typical_prices().with_asked([price])
    return quote_of(Forecaster(recipe, shape, workload), target, prices, None, alone=True)


def test_smaller_gpus_beat_a_larger_one_where_they_are_cheaper_and_as_fast(
    new_recipe: NewRecipe, wide: ModelShape, workload: Workload
) -> None:
    recipe = new_recipe(tokens_per_step=2048)
    one = quote(recipe, wide, workload, "a100-80gb", 1, 10.0)
    two = quote(recipe, wide, workload, "a10", 2, 0.1)
    slow = replace(two, forecast=replace(two.forecast, time=replace(two.forecast.time, load_seconds=1e6)))
    assert beaten([one, two]) == (((two, one),) if _total(two) <= _total(one) else ())
    fast = replace(two, forecast=replace(two.forecast, time=replace(two.forecast.time, load_seconds=0.0)))
    assert beaten([one, fast]) == ((fast, one),)
    assert beaten([one, slow]) == ()
    assert beaten([one, replace(fast, cost=one.cost)]) == ()
    assert beaten([replace(fast, cost=0.0), two]) == ()


def _total(quote: Any) -> float:
    return float(quote.forecast.time.total_seconds)


def test_what_does_not_fit_has_no_efficiency(new_recipe: NewRecipe, wide: ModelShape, workload: Workload) -> None:
    made = [quote(new_recipe(tokens_per_step=2048), wide, workload, "l4", number, 1.0) for number in (1, 2)]
    made[0] = replace(made[0], found=replace(made[0].found, fit="no"))
    first, second = with_efficiency(made)
    assert (first.efficiency, second.efficiency) == (None, 1)


def test_sharding_is_chosen_where_a_copy_does_not_fit(
    new_recipe: NewRecipe, new_target: Callable[..., Target], wide: ModelShape, workload: Workload
) -> None:
    row = find_gpu("a100")
    network, logs = Counts.of(4).network(row), dict[Step, Log]()

    def chosen(gigabytes: float, **train: Any) -> Any:
        values = {"micro_batch_tokens": 256, "gradient_checkpointing": False, **train}
        recipe = new_recipe(tokens_per_step=2048, **values)
        target = new_target(gigabytes, bf16=True, flash=True, num_processes=4, network=network)
        return decide(Forecaster(recipe, wide, workload, logs), target)

    plenty, found, _ = chosen(1.0)
    assert (plenty.sharding, plenty.dtype) == ("none", "float32")
    assert "a copy for each process takes" in plenty.reasons["sharding"]
    copy = found.memory.peak_bytes
    _, forced, _ = chosen(1.0, sharding="full")
    between = (forced.memory.peak_bytes + copy) / 2 / FITS / 1e9
    scarce, found, _ = chosen(between)
    assert (scarce.sharding, scarce.dtype, found.fit) == ("full", "float32", "fits")
    assert "a copy for each process does not fit; 4 shards take" in scarce.reasons["sharding"]
    refused, found, _ = chosen(between, sharding="none")
    assert refused.sharding == "none"
    assert (refused.dtype, found.fit) != ("float32", "fits")
    alone, _, _ = decide(Forecaster(new_recipe(tokens_per_step=2048), wide, workload), new_target(1.0))
    assert (alone.sharding, alone.reasons["sharding"]) == ("none", "one process")


def test_what_cannot_be_sharded_is_refused(recipe: NewRecipe) -> None:
    with pytest.raises(PlanError, match=r"train\.sharding: full: fp16 cannot be sharded"):
        plan(recipe(sharding="full", precision="fp16"), gpu="l4", counts=Counts.of(2))
    choice = Choice("lora", "bf16", "bfloat16", "adamw", False, 1024, 512)
    assert cannot_shard(choice) == ""
    assert cannot_shard(replace(choice, method="qlora")) == "quantised weights"
    assert cannot_shard(replace(choice, optimizer="adamw8bit")) == "8-bit moments"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0,), "--procs 0: expected at least 1"),
        ((2, 0), "--nodes 0: expected at least 1"),
        ((None, 2), "--nodes without --procs"),
        ((None, None, ["pcie-4"]), "--interconnect without --procs"),
        ((12,), "machines of 8, which 12 does not fill"),
        ((2, None, ["ethernet-100"]), "ethernet-100 joins machines, but there is one"),
        ((1, 2, ["pcie-4"]), "each machine has one GPU"),
        ((8, 10_000), "80,000 processes. Expected at most 65,536"),
    ],
)
def test_numbers_that_make_no_machines_are_refused(values: tuple[Any, ...], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Counts.of(*values)


def test_machines_are_filled_one_after_another() -> None:
    assert Counts.of(8).num_nodes == 1
    assert [(rung.per_machine, rung.num_nodes) for rung in Counts.of(32).ladder()] == [
        (1, 1),
        (2, 1),
        (4, 1),
        (8, 1),
        (8, 2),
        (8, 4),
    ]
    assert [rung.num_processes for rung in Counts.of(3, 3).ladder()] == [1, 2, 3, 6, 9]


def test_more_processes_than_documents_are_refused(recipe: NewRecipe) -> None:
    with pytest.raises(PlanError, match=r"64 processes, but a step of 1,200 tokens has \d+ documents.*tokens_per_step"):
        plan(recipe(), gpu="l4", counts=Counts.of(64))
    with pytest.raises(PlanError, match="priced for one process"):
        plan(recipe(loop="reference"), gpu="l4", counts=Counts.of(2))


def test_this_machine_runs_as_many_as_it_has_cores(recipe: NewRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = replace(detect_machine(), device="cpu", num_cores=2)
    monkeypatch.setattr(targets, "detect_machine", lambda: machine)
    report = plan(recipe(), counts=Counts.of(2))
    one, two = report.fewer
    assert two.target.capacity_bytes < one.target.capacity_bytes
    assert two.forecast.step_time.exchange.takes_turns == 2
    for counts, message in (
        (Counts.of(4), "this machine has 2 cores"),
        (Counts.of(2, 2), "Name the GPU that the others have"),
        (Counts.of(2, None, ["pcie-4"]), "this machine has no GPU"),
    ):
        with pytest.raises(PlanError, match=message):
            plan(recipe(), counts=counts)


def test_several_processes_are_not_timed(recipe: NewRecipe) -> None:
    with pytest.raises(PlanError, match="--calibrate with --procs 2"):
        api.plan(recipe(), procs=2, calibrate=True)


def test_more_of_a_gpu_that_is_too_small_are_offered(
    new_recipe: NewRecipe,
    new_target: Callable[..., Target],
    wide: ModelShape,
    workload: Workload,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tunesmith.plan.decide.alternatives", lambda *_: iter(()))  # many traces
    monkeypatch.setattr("tunesmith.plan.decide.larger_gpu", lambda *_: None)
    recipe = new_recipe(tokens_per_step=2048, micro_batch_tokens=256, gradient_checkpointing=False)
    forecaster = Forecaster(recipe, wide, workload)
    plenty, found, _ = decide(forecaster, new_target(1.0, bf16=True))
    choice = replace(found.choice, sharding="full")
    four = new_target(1.0, bf16=True, num_processes=4, network=Counts.of(4).network(find_gpu("a100")))
    scarce = new_target(forecaster.memory(choice, four).peak_bytes / FITS / 1e9 + 1e-6, bf16=True)
    more = more_gpus(forecaster, scarce, found)
    assert plenty.num_processes == 1
    assert more is not None
    assert (more.num_processes, more.choice.sharding, more.fit) == (4, "full", "fits")
    text = does_not_fit(forecaster, scarce, found)
    assert f"Or 4 of these GPUs in one machine ({describe(more)}, " in text
    assert "Nothing that is offered fits" not in text
    assert more_gpus(forecaster, new_target(1e-3, bf16=True), found) is None
    assert more_gpus(forecaster, new_target(1.0, "cpu"), found) is None


def test_shards_are_offered_where_the_recipe_asks_for_copies(
    new_recipe: NewRecipe,
    new_target: Callable[..., Target],
    wide: ModelShape,
    workload: Workload,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = new_recipe(tokens_per_step=2048, sharding="none")
    forecaster = Forecaster(recipe, wide, workload)
    network = Counts.of(2).network(find_gpu("a100"))
    target = new_target(1.0, num_processes=2, network=network)
    _, found, _ = decide(forecaster, target)
    monkeypatch.setattr("tunesmith.plan.decide.alternatives", lambda *_: iter(()))
    monkeypatch.setattr("tunesmith.plan.decide.larger_gpu", lambda *_: None)
    offered = alternatives(forecaster, target, replace(found, fit="no"))
    assert any("train.sharding: full" in describe(other) for other in offered)
    text = does_not_fit(forecaster, new_target(1e-3, num_processes=2, network=network), found)
    assert text.startswith("plan on a test device: each of 2 processes needs")
