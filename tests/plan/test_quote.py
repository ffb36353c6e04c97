"""What a run will cost: one device, all of them, and what is refused."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tunesmith.errors import DataError, ModelError, PlanError
from tunesmith.forecast.time import Measured
from tunesmith.machine.gpus import find_gpu, gpus
from tunesmith.machine.prices import typical_prices
from tunesmith.plan.quote import PlanReport, plan
from tunesmith.recipe import Recipe, SaveSection
from tunesmith.show.plan import print_report

NewRecipe = Callable[..., Recipe]


@pytest.fixture
def recipe(tiny_llama: Path, shows_csv: Path) -> NewRecipe:
    """recipe(**values of the train section, data=section)"""

    def make(model: str = str(tiny_llama), data: dict[str, Any] | None = None, **train: Any) -> Recipe:
        section = {"path": str(shows_csv), "text": "description", "max_rows": 80, "eval_fraction": 0.2, **(data or {})}
        return Recipe(model={"name": model}, data=section, train={"max_length": 256, **train})

    return make


def printed(report: PlanReport) -> str:
    out = io.StringIO()
    print_report(report, Console(file=out, width=200))
    return out.getvalue()


def test_one_gpu_is_told_in_detail(recipe: NewRecipe) -> None:
    report = plan(recipe(), gpu="a100-80gb", price=3.6)
    (quote,) = report.quotes
    assert quote.found.fit == "fits"
    assert quote.cost == pytest.approx(quote.forecast.time.total_seconds / 1000)
    assert sum(quote.forecast.memory.components.values()) == quote.forecast.memory.allocated_bytes
    assert set(quote.plan.reasons) >= {"method", "micro_batch_tokens", "precision", "tokens_per_step"}
    text = printed(report)
    for part in ("memory  needs at least", "nvidia-smi will show", ": fits", "time ", "disk ", "cost ", "not measured"):
        assert part in text


def test_what_the_recipe_says_is_told_from_a_default(recipe: NewRecipe) -> None:
    asked = recipe(schedule="cosine")
    asked = asked.model_copy(update={"save": SaveSection(keep=3)})
    rows = {line.split()[0]: line for line in printed(plan(asked, gpu="l4")).splitlines() if line.startswith("  ")}
    assert rows["schedule"].rstrip().endswith("the recipe says so")
    assert rows["max_length"].rstrip().endswith("the recipe says so")
    assert rows["save_keep"].rstrip().endswith("the recipe says so")
    assert rows["weight_decay"].rstrip().endswith("the default")
    assert rows["dtype"].rstrip().endswith("small updates would be lost in a shorter type")


def test_all_gpus_are_a_row_each(recipe: NewRecipe) -> None:
    told: list[tuple[str, int, int]] = []
    report = plan(recipe(), all_gpus=True, price=["t4=0.01"], progress=lambda *what: told.append(what))
    assert {quote.target.gpu.key for quote in report.quotes if quote.target.gpu} == {gpu.key for gpu in gpus()}
    assert [done for _, done, _ in told] == list(range(len(gpus())))
    costs = [quote.cost for quote in report.quotes if quote.cost is not None and quote.found.fit == "fits"]
    assert costs == sorted(costs)
    assert report.quotes[0].target.gpu is not None
    assert (report.quotes[0].target.gpu.key, report.quotes[0].price, report.quotes[0].price_is_typical) == (
        "t4",
        0.01,
        False,
    )
    text = printed(report)
    assert all(gpu.name in text for gpu in gpus())
    assert "cost" in text
    fitting = [quote for quote in report.quotes if quote.found.fit == "fits"]
    priced = [quote.cost is not None for quote in fitting]
    assert True in priced
    assert False in priced
    assert priced == sorted(priced, reverse=True), "what has no price stands behind"
    assert "no price known: --price NAME=X for " in text
    assert not any(quote.target.gpu and quote.target.gpu.key == "a40" and quote.cost for quote in report.quotes)
    assert "cheapest that finishes within an hour: Tesla T4, 0.000 for" in text
    assert f"typical prices of {typical_prices().date} in USD" in text
    written = json.loads(json.dumps(report.to_json()))
    assert len(written["quotes"]) == len(gpus())
    assert written["quotes"][0].keys() >= {"gpu", "fit", "peak_bytes", "total_seconds", "cost", "plan", "instead"}


@pytest.mark.parametrize(
    ("every", "eval_fraction", "said"), [("auto", 0.8, True), (1, 0.3, True), ("auto", 0.05, False)]
)
def test_evaluation_that_takes_much_of_the_run_is_said(
    recipe: NewRecipe, every: int | str, eval_fraction: float, said: bool
) -> None:
    asked = recipe(data={"eval_fraction": eval_fraction, "max_rows": 400})
    asked = asked.model_copy(update={"eval": asked.eval.model_copy(update={"every": every})})
    (quote,) = plan(asked, gpu="a100-80gb").quotes
    assert ("fewer held-out rows" in quote.plan.reasons["eval_every"]) == said


def test_a_gpu_that_is_too_small_says_what_would_fit() -> None:
    asked = {"method": "full", "optimizer": "adamw", "max_length": 512}
    data = {"path": "hub:nobody/nothing", "text": "text", "max_rows": 200}
    model = {"name": "EleutherAI/gpt-neo-2.7B", "dtype": "float32"}
    report = plan(Recipe(model=model, data=data, train=asked), gpu="rtx-4090")
    (quote,) = report.quotes
    assert quote.found.fit == "no"
    assert (quote.instead[0].choice.method, quote.instead[0].choice.dtype) == ("full", "bfloat16")
    methods = [found.choice.method for found in quote.instead]
    assert methods
    assert "lora" in methods
    assert all(found.memory.peak_bytes < quote.target.capacity_bytes for found in quote.instead)
    text = printed(report)
    assert "does not fit" in text
    assert "instead: train.method: full, model.dtype: bfloat16" in text
    assert "instead: train.method: lora" in text
    assert quote.larger is not None
    assert quote.larger[0].memory_bytes > quote.target.capacity_bytes
    assert f"or a larger GPU, from {quote.larger[0].name} on" in text


def test_weights_in_bfloat16_are_the_way_where_float32_does_not_fit() -> None:
    asked = {"method": "full", "max_length": 512}
    data = {"path": "hub:nobody/nothing", "text": "text", "max_rows": 200}
    recipe = Recipe(model={"name": "EleutherAI/gpt-neo-2.7B"}, data=data, train=asked)
    (large,), (small,) = (plan(recipe, gpu=gpu).quotes for gpu in ("a100-80gb", "rtx-4090"))
    assert (large.plan.dtype, small.plan.dtype) == ("float32", "bfloat16")
    assert (small.found.fit, small.plan.method, small.plan.optimizer) == ("fits", "full", "adamw")
    assert "do not fit" in small.plan.reasons["dtype"]
    assert small.forecast.disk.checkpoint_bytes == pytest.approx(large.forecast.disk.checkpoint_bytes / 2, rel=1e-2)


@pytest.mark.parametrize(("size", "gigabytes"), [("125m", 2), ("1.3B", 11), ("2.7B", 22)])
def test_full_fine_tuning_in_bfloat16_takes_8_bytes_a_parameter(size: str, gigabytes: float) -> None:
    """The tutorial needs 8, 35 and 65 GB."""
    data = {"path": "hub:nobody/nothing", "text": "text", "max_rows": 200}
    model = {"name": f"EleutherAI/gpt-neo-{size}", "dtype": "bfloat16"}
    recipe = Recipe(model=model, data=data, train={"tokens_per_step": 1024, "max_length": 256})
    (quote,) = plan(recipe, gpu="h200").quotes
    assert quote.forecast.memory.allocated_bytes < gigabytes * 1e9
    assert quote.found.choice.gradient_checkpointing is False


def test_real_steps_change_the_time_here_and_nowhere_else(recipe: NewRecipe) -> None:
    steps = [Measured(100, 1.5), Measured(1000, 6.0), Measured(500, 0.25, "evaluation")]
    before = plan(recipe(), price=2.0)
    (quote,) = before.refitted(steps).quotes
    assert quote.forecast.step_time.token_seconds == pytest.approx(0.005)
    assert quote.forecast.step_time.eval_token_seconds == pytest.approx(0.0005)
    assert quote.forecast.time.origin == "2 real steps on this machine"
    assert quote.plan.predicted.train_seconds == quote.forecast.time.train_seconds
    assert quote.cost == pytest.approx(2.0 * quote.forecast.time.total_seconds / 3600)
    assert quote.forecast.memory == before.quotes[0].forecast.memory
    there = plan(recipe(), gpu="l4")
    assert there.refitted(steps).quotes == there.quotes


def test_an_unknown_gpu_lists_near_matches(recipe: NewRecipe) -> None:
    with pytest.raises(PlanError, match=r"--gpu a1000: not a GPU in the table\. Did you mean .*a100"):
        plan(recipe(), gpu="a1000")


def test_one_gpu_and_all_of_them_exclude_each_other(recipe: NewRecipe) -> None:
    with pytest.raises(PlanError, match="exclude each other"):
        plan(recipe(), gpu="l4", all_gpus=True)


def test_a_sequence_longer_than_the_model_is_refused(recipe: NewRecipe, tmp_path: Path) -> None:
    long = tmp_path / "long.csv"
    long.write_text("description\n" + "\n".join(f"{number} " + "word " * 900 for number in range(20)))
    with pytest.raises(PlanError, match=r"longest document: .* tokens, but .* sees at most 512.*max_length to 512"):
        plan(recipe(data={"path": str(long)}, max_length=2048), gpu="l4")
    with pytest.raises(PlanError, match=r"train\.max_length: 2,048 tokens"):
        plan(recipe(loop="reference", max_length=2048), gpu="l4")


@pytest.mark.parametrize("content", ["description\n", "description\n\n\n", ""])
def test_data_without_rows_is_refused(recipe: NewRecipe, tmp_path: Path, content: str) -> None:
    empty = tmp_path / "empty.csv"
    empty.write_text(content)
    with pytest.raises((DataError, PlanError), match=r"empty\.csv"):
        plan(recipe(data={"path": str(empty)}), gpu="l4")


def test_a_hub_model_offline_says_which_file_to_bring(recipe: NewRecipe) -> None:
    with pytest.raises(ModelError, match=r"config\.json in a directory and name that directory in model\.name"):
        plan(recipe(model="someone/unheard-of-model"), gpu="l4")


def test_data_that_is_not_at_hand_is_assumed_and_said(recipe: NewRecipe) -> None:
    report = plan(recipe(data={"path": "hub:nobody/nothing"}), gpu="l4")
    assert report.workload.assumed
    assert "assumed 80 documents of 16 to 256 tokens" in printed(report)


def test_a_config_without_a_tokenizer_counts_with_another(recipe: NewRecipe, tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((tiny_llama / "config.json").read_text())
    report = plan(recipe(model=str(tmp_path)), gpu="l4")
    assert report.workload.assumed or "tokens are counted with the tokenizer of" in " ".join(report.notes)


BIG = {"path": "hub:nobody/nothing", "text": "text", "max_rows": 200}


def test_auto_takes_what_it_would_advise() -> None:
    recipe = Recipe(model={"name": "EleutherAI/gpt-neo-2.7B"}, data=BIG, train={"method": "full", "max_length": 512})
    (quote,) = plan(recipe, gpu="NVIDIA L4").quotes
    assert (quote.found.fit, quote.plan.dtype, quote.plan.optimizer) == ("fits", "bfloat16", "adamw8bit")
    assert "with it" in quote.plan.reasons["optimizer"]
    assert "tunesmith[qlora]" in quote.plan.reasons["optimizer"]


@pytest.mark.parametrize("gpu", ["t4", "rtx-3060"])
def test_no_reason_contradicts_that_it_does_not_fit(gpu: str) -> None:
    recipe = Recipe(model={"name": "EleutherAI/gpt-neo-2.7B"}, data=BIG, train={"method": "full", "max_length": 512})
    (quote,) = plan(recipe, gpu=gpu).quotes
    assert quote.found.fit == "no"
    told = [quote.plan.reasons[name] for name in ("optimizer", "gradient_checkpointing", "micro_batch_tokens")]
    assert not any("with it" in reason or "allows" in reason for reason in told)
    assert any("nothing fits" in reason for reason in told)


def test_a_larger_gpu_is_the_cheapest_of_those_that_hold_as_much() -> None:
    """Of 80 GB there are three, which differ by 0.05 GiB."""
    asked = {"optimizer": "adamw", "max_length": 512, "gradient_checkpointing": False, "micro_batch_tokens": 2048}
    recipe = Recipe(model={"name": "EleutherAI/gpt-neo-2.7B", "dtype": "float32"}, data=BIG, train=asked)
    (quote,) = plan(recipe, gpu="l40s").quotes
    assert quote.found.fit == "no"
    assert quote.larger is not None
    assert quote.larger[0].key == "a100-80gb"


def test_one_price_for_every_gpu_is_refused(recipe: NewRecipe) -> None:
    with pytest.raises(PlanError, match=r"--price 2\.5: one price for every GPU ranks nothing\. Give NAME=X"):
        plan(recipe(), all_gpus=True, price=2.5)


def test_a_typical_price_is_said_to_be_one(recipe: NewRecipe) -> None:
    report = plan(recipe(), gpu="l4")
    assert report.quotes[0].price_is_typical
    assert f"an hour (typical prices of {typical_prices().date} in USD; look yours up" in printed(report)
    assert "typical" not in printed(plan(recipe(), gpu="l4", price=["l4=0.8"]))


def test_a_gpu_without_a_price_says_how_to_give_one(recipe: NewRecipe) -> None:
    report = plan(recipe(), gpu="a40")
    assert (report.quotes[0].price, report.quotes[0].cost) == (None, None)
    assert "cost    no price known: --price a40=X" in printed(report)
    assert "no price known" not in printed(plan(recipe(), gpu="a40", price=0.4))


def test_only_this_machine_can_be_timed(recipe: NewRecipe) -> None:
    from tunesmith import api

    with pytest.raises(PlanError, match=r"--calibrate with --gpu l4: steps can be timed on this machine alone"):
        api.plan(recipe(), gpu="l4", calibrate=True)
    with pytest.raises(PlanError, match="--calibrate with --all-gpus"):
        api.plan(recipe(), all_gpus=True, calibrate=True)


def test_the_longest_document_is_what_the_model_can_read(recipe: NewRecipe, tmp_path: Path) -> None:
    long = tmp_path / "long.csv"
    long.write_text("description\n" + "\n".join(f"{number} " + "word " * 900 for number in range(20)))
    (quote,) = plan(recipe(data={"path": str(long)}, max_length="auto"), gpu="l4").quotes
    assert (quote.plan.max_length, quote.plan.reasons["max_length"]) == (512, "all that the model can read")
    large = Recipe(model={"name": "EleutherAI/gpt-neo-125m"}, data=BIG)
    (quote,) = plan(large, gpu="l4").quotes
    assert (quote.plan.max_length, quote.plan.reasons["max_length"]) == (
        1024,
        "the usual length; the model reads 2,048",
    )


def test_4_bit_weights_need_their_library(recipe: NewRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.plan.decide.has_bitsandbytes", lambda: False)
    with pytest.raises(
        PlanError, match=r"qlora needs bitsandbytes, which is not installed. Run: pip install 'tunesmith"
    ):
        plan(recipe(method="qlora"))
    monkeypatch.setattr("tunesmith.plan.decide.has_bitsandbytes", lambda: True)
    (quote,) = plan(recipe(method="qlora")).quotes
    assert (quote.plan.method, quote.target.device) == ("qlora", "cpu")
    assert "times alpha / rank" in quote.plan.reasons["lora"]


def test_8_bit_moments_need_their_library(recipe: NewRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.plan.decide.has_bitsandbytes", lambda: False)
    with pytest.raises(PlanError, match=r"adamw8bit needs bitsandbytes.*pip install 'tunesmith\[qlora\]'"):
        plan(recipe(optimizer="adamw8bit"))
    monkeypatch.setattr("tunesmith.plan.decide.has_bitsandbytes", lambda: True)
    (quote,) = plan(recipe(optimizer="adamw8bit")).quotes
    assert (quote.plan.optimizer, quote.target.device) == ("adamw8bit", "cpu")


def test_frozen_layers_in_ram(recipe: NewRecipe) -> None:
    (quote,) = plan(recipe(method="lora", offload="layers"), gpu="l4").quotes
    decided = quote.plan
    assert (decided.offload, decided.gradient_checkpointing, decided.cuda_graphs) == ("layers", True, False)
    assert "copied twice a pass" in decided.reasons["offload"]
    assert decided.reasons["cuda_graphs"] == "layers come and go"
    assert "computed again" in decided.reasons["gradient_checkpointing"]
    (here,) = plan(recipe(method="lora", offload="layers")).quotes
    assert (here.plan.offload, here.plan.reasons["offload"]) == ("none", "a processor's weights are in RAM already")


def test_frozen_layers_that_ram_has_no_room_for(recipe: NewRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from tunesmith.forecast.forecaster import Choice, Forecaster, Target
    from tunesmith.forecast.shapes import find_shape
    from tunesmith.forecast.workload import Workload
    from tunesmith.plan import offload as module

    asked = recipe(method="lora", offload="layers")
    forecaster = Forecaster(asked, find_shape("EleutherAI/gpt-j-6b"), Workload.assume(asked, "made here", 64))
    choice = Choice("lora", "bf16", "bfloat16", "adamw", True, 512, 512, offload=True)
    here = Target("a GPU", "cuda", int(8e9), 0, bf16=True, flash=True)
    reasons = dict[str, str]()
    monkeypatch.setattr(module.psutil, "virtual_memory", lambda: SimpleNamespace(available=int(4e9)))
    with pytest.raises(PlanError, match=r"train\.offload: layers: 1\d\.\d GB of frozen weights .* 4\.0 GB free"):
        module.choose_offload(forecaster, choice, here, reasons)
    with pytest.raises(PlanError, match="goes with one process"):
        module.choose_offload(forecaster, choice, replace(here, num_processes=2), reasons)
    monkeypatch.setattr(module.psutil, "virtual_memory", lambda: SimpleNamespace(available=int(64e9)))
    assert module.choose_offload(forecaster, choice, here, reasons) == "layers"


@pytest.mark.parametrize("optimizer", ["adafactor", "muon"])
def test_an_optimizer_that_looks_at_whole_matrices_is_not_sharded(recipe: NewRecipe, optimizer: str) -> None:
    from tunesmith.forecast.forecaster import Forecaster, Target
    from tunesmith.forecast.shapes import find_shape
    from tunesmith.forecast.workload import Workload
    from tunesmith.plan.decide import decide

    asked = recipe(optimizer=optimizer, sharding="full")
    forecaster = Forecaster(asked, find_shape(asked.model.name), Workload.assume(asked, "made here", 64))
    two = replace(Target.of_gpu(find_gpu("l4")), num_processes=2)
    with pytest.raises(
        PlanError, match=rf"train\.sharding: full: {optimizer}, which looks at whole matrices, cannot be sharded"
    ):
        decide(forecaster, two)
