"""A plan holds every value with its reason; a run that goes on keeps its own, but for its length and what is asked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunesmith.data import Data
from tunesmith.machine.detect import detect_machine
from tunesmith.models.find import find_model
from tunesmith.plan import continue_plan, make_plan
from tunesmith.plan.schedule import adapter_rate, choose_warmup_steps
from tunesmith.recipe import Recipe
from tunesmith.run.artefacts import ASKED, CheckpointInfo, Plan


@pytest.fixture
def recipe(tiny_llama: Path, shows_csv: Path) -> Recipe:
    return Recipe(
        model=str(tiny_llama), data={"path": str(shows_csv), "text": "description"}, train={"max_length": 128}
    )


@pytest.fixture
def data(prepared: Callable[..., Data], shows_csv: Path) -> Data:
    return prepared(shows_csv, text="description", max_rows=120)


def test_every_decided_value_has_a_reason(recipe: Recipe, data: Data) -> None:
    plan = make_plan(recipe, data, detect_machine())
    assert set(plan.decided()) == set(plan.reasons)
    assert all(plan.reasons.values())


def test_auto_learning_rate_is_decided_and_an_asked_one_is_kept(recipe: Recipe, data: Data) -> None:
    decided = make_plan(recipe, data, detect_machine())
    assert decided.learning_rate == 2e-4
    assert decided.reasons["learning_rate"] != ASKED
    asked = make_plan(recipe.with_values(**{"train.learning_rate": 3e-5}), data, detect_machine())
    assert (asked.learning_rate, asked.reasons["learning_rate"]) == (3e-5, ASKED)


def test_an_adapter_that_begins_at_zero_gets_a_higher_rate(recipe: Recipe, data: Data) -> None:
    lora = make_plan(recipe.with_values(**{"train.method": "lora"}), data, detect_machine())
    assert lora.learning_rate == 2.6e-3, "the highest that is chosen"
    assert "docs/defaults.md" in lora.reasons["learning_rate"]
    pissa = make_plan(recipe.with_values(**{"train.method": "lora", "lora.init": "pissa"}), data, detect_machine())
    assert pissa.learning_rate == 2e-4


def test_an_adapter_of_a_wider_model_gets_a_lower_rate() -> None:
    assert [adapter_rate(width, 100) for width in (32, 576, 2000, 4096)] == [2.6e-3, 1.3e-3, 5e-4, 2.9e-4]


def test_an_adapter_gets_a_higher_rate_in_few_steps() -> None:
    assert [adapter_rate(width, 99) for width in (32, 576, 2000, 4096)] == [2.6e-3, 2.6e-3, 1e-3, 5.7e-4]


def warmup_of(num_steps: int, reasons: dict[str, str], method: str = "full", **train: float) -> int:
    recipe = Recipe(model={"name": "smollm2-135m"}, data={"path": "rows.csv"}, train=train)
    return choose_warmup_steps(recipe, method, num_steps, reasons)


@pytest.mark.parametrize(("num_steps", "warmup"), [(1, 0), (4, 1), (16, 5), (30, 8), (82, 8), (250, 8), (1000, 30)])
def test_a_short_run_warms_up_over_more_than_one_step(num_steps: int, warmup: int) -> None:
    reasons: dict[str, str] = {}
    assert warmup_of(num_steps, reasons) == warmup
    assert f"{num_steps:,}" in reasons["warmup_steps"]


def test_an_adapter_needs_no_longer_warm_up() -> None:
    assert [warmup_of(number, {}, "lora") for number in (16, 82, 1000)] == [1, 2, 30]


def test_a_share_of_the_steps_that_was_asked_for_is_kept() -> None:
    reasons: dict[str, str] = {}
    assert warmup_of(16, reasons, warmup_fraction=0.03) == 1
    assert warmup_of(16, reasons, warmup_fraction=0) == 0
    assert "train.warmup_fraction" in reasons["warmup_steps"]


def test_the_disk_of_the_run_is_priced(
    recipe: Recipe, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    usage = shutil.disk_usage

    def look(path: Any) -> Any:
        asked.append(Path(path))
        return usage(path)

    monkeypatch.setattr("tunesmith.forecast.disk.shutil.disk_usage", look)
    make_plan(recipe, data, detect_machine(), out=tmp_path / "elsewhere" / "run")
    assert asked == [tmp_path]


def test_saves_are_decided_in_the_plan_alone(recipe: Recipe, data: Data) -> None:
    assert make_plan(recipe, data, detect_machine()).save_every != "auto"


def test_how_long_a_lower_loss_is_waited_for(
    recipe: Recipe, data: Data, prepared: Callable[..., Data], shows_csv: Path
) -> None:
    def planned(using: Data = data, /, **changes: Any) -> Plan:
        return make_plan(recipe.with_values(**{"train.epochs": 4, "eval.every": 1, **changes}), using, detect_machine())

    usual = planned()
    assert usual.early_stopping == max(3, -(-usual.num_steps // 4))
    assert usual.predicted is not None
    assert usual.predicted.disk.best_bytes > 0
    assert planned(**{"train.early_stopping": True}).early_stopping == usual.early_stopping
    asked, never = planned(**{"train.early_stopping": 5}), planned(**{"train.early_stopping": False})
    assert (asked.early_stopping, asked.reasons["early_stopping"]) == (5, ASKED)
    assert (never.early_stopping, never.reasons["early_stopping"]) == (None, ASKED)
    assert never.predicted is not None
    assert never.predicted.disk.best_bytes == 0
    assert never.predicted.disk.total_bytes < usual.predicted.disk.total_bytes
    assert planned(**{"eval.every": 1000}).early_stopping is None
    nothing = prepared(shows_csv, text="description", max_rows=120, eval_fraction=0.0)
    assert planned(nothing).reasons["early_stopping"] == "nothing is held out"


def test_a_run_that_goes_on_keeps_what_shaped_its_steps(new_plan: Callable[..., Plan]) -> None:
    begun = new_plan(learning_rate=1e-3, tokens_per_step=512, num_steps=10, reasons={"learning_rate": "auto then"})
    longer = new_plan(
        learning_rate=5e-4, tokens_per_step=256, num_steps=20, epochs=2, save_every=7, reasons={"learning_rate": "auto"}
    )
    plan = longer.continued_from(begun)
    assert (plan.learning_rate, plan.tokens_per_step) == (1e-3, 512)
    assert (plan.num_steps, plan.epochs, plan.save_every) == (20, 2, 7)
    assert plan.reasons["learning_rate"] == "auto then"


def test_what_the_recipe_itself_asks_for_holds_for_the_steps_to_come(new_plan: Callable[..., Plan]) -> None:
    begun = new_plan(learning_rate=1e-3)
    forced = new_plan(learning_rate=5e-4, reasons={"learning_rate": ASKED})
    plan = forced.continued_from(begun)
    assert (plan.learning_rate, plan.reasons["learning_rate"]) == (5e-4, ASKED)


def test_an_unchanged_run_is_not_planned_again(
    recipe: Recipe, data: Data, new_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine, source = detect_machine(), find_model(recipe.model.name)
    begun = new_plan(device=machine.device)
    asked = recipe.model_dump(mode="json")
    info = CheckpointInfo(data=data.fingerprint, model="m", recipe=asked, plan=begun, environment={}, eval=None)
    monkeypatch.setattr("tunesmith.plan.decide.make_plan", lambda *args, **kwargs: pytest.fail("planned again"))
    assert continue_plan(recipe, data, machine, info, source=source, out=tmp_path) == begun


def test_a_longer_run_is_planned_for_its_length_alone(
    recipe: Recipe, data: Data, new_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    machine, source = detect_machine(), find_model(recipe.model.name)
    begun = new_plan(device=machine.device, tokens_per_step=300, seed=9)
    asked = recipe.model_dump(mode="json")
    info = CheckpointInfo(data=data.fingerprint, model="m", recipe=asked, plan=begun, environment={}, eval=None)
    longer = recipe.with_values(**{"train.epochs": 3})
    plan = continue_plan(longer, data, machine, info, source=source, out=tmp_path)
    assert plan.num_steps == 3 * round(int(data.train.lengths.sum() - len(data.train)) / 300)
    assert (plan.tokens_per_step, plan.epochs) == (300, 3)


@pytest.mark.parametrize(
    ("base", "asked", "method", "expected"),
    [
        ("bfloat16", "auto", "full", "bfloat16"),
        ("float16", "auto", "full", "float16"),
        (None, "auto", "full", "float32"),
        ("bfloat16", "float32", "full", "float32"),
        (None, "bfloat16", "full", "bfloat16"),
        ("bfloat16", "auto", "lora", "float32"),
    ],
)
def test_weights_are_written_as_the_base_is(
    base: str | None,
    asked: str,
    method: str,
    expected: str,
    recipe: Recipe,
    data: Data,
    tiny_llama: Path,
    tmp_path: Path,
) -> None:
    path = tmp_path / "base"
    shutil.copytree(tiny_llama, path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "dtype": base}))
    changed = recipe.with_values(**{"model.name": str(path), "save.dtype": asked, "train.method": method})
    plan = make_plan(changed, data, detect_machine())
    assert plan.save_dtype == expected
    assert (plan.reasons["save_dtype"] == ASKED) == (asked != "auto")


def test_weights_that_take_long_to_write_are_kept_once(prepared: Callable[..., Data], shows_csv: Path) -> None:
    """100 rows of a model of 135M parameters: keeping the best weights twice takes longer than it shows."""
    recipe = Recipe(model="smollm2-135m", data={"path": str(shows_csv), "text": "description"})
    using = prepared(shows_csv, text="description", max_rows=110, eval_fraction=0.1)
    kept = make_plan(recipe, using, detect_machine())
    free = make_plan(recipe.with_values(**{"train.early_stopping": False}), using, detect_machine())
    assert isinstance(free.eval_every, int)
    assert kept.eval_every == kept.num_steps > free.eval_every
    assert "to keep the best weights takes 2% of it each time" in kept.reasons["eval_every"]
