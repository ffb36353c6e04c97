"""What a run will cost: one device, all of them, and what is refused."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tunesmith.errors import DataError, ModelError, PlanError
from tunesmith.forecast.time import Measured
from tunesmith.machine.gpus import gpus
from tunesmith.plan.quote import PlanReport, plan
from tunesmith.recipe import Recipe
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


def test_all_gpus_are_a_row_each(recipe: NewRecipe) -> None:
    report = plan(recipe(), all_gpus=True, price=2.0)
    assert [quote.target.gpu.key for quote in report.quotes if quote.target.gpu] == [gpu.key for gpu in gpus()]
    text = printed(report)
    assert all(gpu.name in text for gpu in gpus())
    assert "cost" in text
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
