"""A sweep on a tiny model: trials, what they leave, and going on after a process that was killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

optuna = pytest.importorskip("optuna", reason="optuna is not installed (extra sweep)")

from tunesmith.errors import SweepError  # noqa: E402
from tunesmith.pipeline import Prepared, prepare_inputs  # noqa: E402
from tunesmith.recipe import Recipe  # noqa: E402
from tunesmith.run.observer import Silent  # noqa: E402
from tunesmith.run.signals import StopRequest  # noqa: E402
from tunesmith.sweep.lr_find import find_rate  # noqa: E402
from tunesmith.sweep.stage import Budget, sweep  # noqa: E402
from tunesmith.sweep.study import Study  # noqa: E402

RATE = "train.learning_rate"


@pytest.fixture(scope="module")
def recipe(tiny_llama: Path, shows_csv: Path) -> Recipe:
    return Recipe(
        model={"name": str(tiny_llama)},
        data={"path": str(shows_csv), "text": "description", "max_rows": 40, "eval_fraction": 0.25},
        train={"tokens_per_step": 200, "max_steps": 4},
        export={"format": "safetensors"},
    )


@pytest.fixture(scope="module")
def prepared(recipe: Recipe) -> Prepared:
    return prepare_inputs(recipe, lambda *_: None, small=False)


def search(recipe: Recipe, folder: Path, prepared: Prepared, trials: int, **more: Any) -> tuple[Study, list[str]]:
    said: list[str] = []
    over = more.pop("over", [f"{RATE}=1e-4..1e-1:log"])
    return sweep(recipe, folder, prepared, over=over, budget=Budget(trials=trials), say=said.append, **more), said


def test_a_sweep_leaves_the_best_recipe_and_goes_on(recipe: Recipe, prepared: Prepared, tmp_path: Path) -> None:
    study, _ = search(recipe, tmp_path, prepared, 2)
    found = json.loads((tmp_path / "trials.json").read_text())
    assert [row["state"] for row in found["trials"]] == ["complete", "complete"]
    assert all(len(row["evaluations"]) == 4 for row in found["trials"])
    best = min(found["trials"], key=lambda row: row["eval_loss"])
    assert found["best"] == best["number"]
    assert Recipe.load(tmp_path / "best.yaml").train.learning_rate == pytest.approx(best["values"][RATE])
    kept = [path.name for path in (tmp_path / "trials").iterdir() if (path / "model").is_dir()]
    assert kept == [f"{best['number']:04d}"]
    assert not list((tmp_path / "trials").glob("*/export"))
    assert Recipe.load(tmp_path / "best.yaml").export.format == "safetensors"
    assert "Best of 2 trials" in (tmp_path / "sweep.html").read_text()

    killed = study.kept.ask()  # a process that was killed in the middle of its third trial
    killed.suggest_float(RATE, 1e-4, 1e-1, log=True)
    value = killed.params[RATE]
    _, said = search(recipe, tmp_path, prepared, 3)
    assert "going on after 2 trials, 1 of them cut off" in said[0]
    rows = json.loads((tmp_path / "trials.json").read_text())["trials"]
    assert [row["state"] for row in rows] == ["complete", "complete", "failed", "complete"]
    assert rows[3]["values"][RATE] == value

    (tmp_path / "sweep.html").unlink()
    search(recipe, tmp_path, prepared, 3)
    assert "Best of" in (tmp_path / "sweep.html").read_text(), "written anew although no trial is left to make"


def test_trials_with_steps_of_other_sizes_are_compared_at_equal_tokens(
    recipe: Recipe, prepared: Prepared, tmp_path: Path
) -> None:
    """What the search compares, of trials that were trained: the same numbers of tokens, and never the ends."""
    asked = recipe.with_values(**{"train.max_steps": None, "train.rehearse": False})
    over = ["train.tokens_per_step=60,130"]
    study, _ = search(asked, tmp_path, prepared, 1, over=over)
    (made,) = study.kept.get_trials()
    study.kept.enqueue_trial({"train.tokens_per_step": {60: 130, 130: 60}[made.params["train.tokens_per_step"]]})
    study, _ = search(asked, tmp_path, prepared, 2, over=over)
    trials = {trial.params["train.tokens_per_step"]: trial for trial in study.kept.get_trials()}
    first, second = trials[60], trials[130]
    num_tokens = int((prepared.data.train.lengths - 1).sum())
    marks = [round(num_tokens * number / 4) for number in (1, 2, 3)]
    assert list(first.intermediate_values) == list(second.intermediate_values) == marks
    rows = json.loads((tmp_path / "trials.json").read_text())["trials"]
    for trial in (first, second):
        row = rows[trial.number]
        lines = (tmp_path / "trials" / f"{trial.number:04d}" / "metrics.jsonl").read_text().splitlines()
        losses = [line["eval_loss"] for line in map(json.loads, lines) if "eval_loss" in line]
        assert row["evaluations"] == losses[1:], "the first is the base's"
        assert row["shares"][-1] == 1
        assert row["shares"][:3] == pytest.approx([0.25, 0.5, 0.75], abs=0.09)
        assert trial.intermediate_values[marks[0]] == losses[1]


def test_a_trial_that_is_behind_at_equal_tokens_is_ended_there(
    recipe: Recipe, prepared: Prepared, tmp_path: Path
) -> None:
    """Five good ones are known; one with a hopeless rate is ended at its first mark, whatever its steps."""
    asked = recipe.with_values(**{"train.max_steps": None, "train.rehearse": False, "train.tokens_per_step": 60})
    over = [f"{RATE}=1e-7..1e-1:log"]
    study, _ = search(asked, tmp_path, prepared, 1, over=over)
    (made,) = study.kept.get_trials()
    for _ in range(5):
        study.kept.add_trial(
            optuna.trial.create_trial(
                params={RATE: 1e-2},
                distributions=made.distributions,
                value=2.0,
                intermediate_values=dict.fromkeys(made.intermediate_values, 2.0),
            )
        )
    study.kept.enqueue_trial({RATE: 1e-7})
    study, said = search(asked, tmp_path, prepared, 7, over=over)
    last = study.kept.get_trials()[-1]
    assert last.state == optuna.trial.TrialState.PRUNED
    assert len(last.intermediate_values) == 1
    assert "ended early, behind the others at equal tokens" in said[-1]


def test_the_plan_s_own_choice_is_tried_first(recipe: Recipe, prepared: Prepared, tmp_path: Path) -> None:
    _, said = search(recipe, tmp_path, prepared, 1, over=())
    values = json.loads((tmp_path / "trials.json").read_text())["trials"][0]["values"]
    assert values["train.tokens_per_step"] == 200
    assert "held-out loss" in said[0]


def test_a_step_that_the_plan_chooses_is_scored_at_equal_shares_too(
    recipe: Recipe, prepared: Prepared, tmp_path: Path
) -> None:
    asked = recipe.with_values(**{"train.tokens_per_step": "auto", "train.max_steps": None, "train.epochs": 2})
    search(asked, tmp_path, prepared, 1)
    (row,) = json.loads((tmp_path / "trials.json").read_text())["trials"]
    assert len(row["evaluations"]) == 4


def test_values_that_cannot_be_trained_with_are_failed_trials(
    recipe: Recipe, prepared: Prepared, tmp_path: Path
) -> None:
    lora = recipe.with_values(**{"train.method": "lora"})
    with pytest.raises(SweepError, match="5 trials in a row failed"):
        search(lora, tmp_path, prepared, 20, over=["lora.target=no_such_layer,nor_this"])
    rows = json.loads((tmp_path / "trials.json").read_text())["trials"]
    assert {row["state"] for row in rows} == {"failed"}
    assert "no linear layer of this model has that name" in rows[0]["why"]


def test_a_folder_of_another_sweep_is_refused(recipe: Recipe, prepared: Prepared, tmp_path: Path) -> None:
    search(recipe, tmp_path, prepared, 1)
    other = recipe.with_values(**{"train.max_steps": 5})
    with pytest.raises(SweepError, match=r"differs in recipe\.train\.max_steps"):
        search(other, tmp_path, prepared, 1)


def test_nothing_held_out_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    asked = recipe.with_values(**{"data.eval_fraction": 0})
    with pytest.raises(SweepError, match="no rows are held out"):
        search(asked, tmp_path, prepare_inputs(asked, lambda *_: None, small=False), 1)


def test_a_rate_is_found_on_a_real_model(recipe: Recipe, prepared: Prepared) -> None:
    with StopRequest("again") as stop:
        found = find_rate(recipe, prepared, stop, Silent())
    assert 1e-5 < found.suggestion < 1e-1
    assert len(found.rates) == len(found.losses) >= 12
