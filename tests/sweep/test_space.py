"""What --over names, and the errors of what it does not."""

from __future__ import annotations

from typing import Any

import pytest

from tunesmith.errors import SweepError
from tunesmith.recipe import Recipe
from tunesmith.sweep.space import Choice, Range, overrides, parse_space
from tunesmith.sweep.stage import Budget, check_space, read_budget

RECIPE = Recipe(model={"name": "somewhere"}, data={"path": "x.csv", "text": "t"})


def test_ranges_and_choices() -> None:
    texts = ["train.learning_rate=1e-5..1e-3:log", "train.epochs=1..4", "train.schedule=linear,cosine"]
    rate, epochs, schedule = parse_space(texts, RECIPE)
    assert rate == Range("train.learning_rate", 1e-5, 1e-3, log=True)
    assert epochs == Range("train.epochs", 1, 4, whole=True)
    assert schedule == Choice("train.schedule", ("linear", "cosine"))
    assert [str(one) for one in (rate, epochs, schedule)] == [
        "train.learning_rate=1e-05..0.001:log",
        "train.epochs=1..4",
        "train.schedule=linear,cosine",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate=1..2", "Expected key=LOW..HIGH"),
        ("train.learning_rate", "Expected key=LOW..HIGH"),
        ("train.learning_rate=1e-3..1e-5", "1e-3 is not below 1e-5"),
        ("train.epochs=0..4:log", "begins above 0"),
        ("train.schedule=linear", "leaves nothing to choose"),
        ("train.learning_rate=a..b", "Expected key=LOW..HIGH"),
    ],
)
def test_what_is_no_space_says_how_one_looks(text: str, message: str) -> None:
    with pytest.raises(SweepError, match=message):
        parse_space([text], RECIPE)


def test_values_that_the_recipe_refuses_are_found_before_any_trial() -> None:
    with pytest.raises(Exception, match=r"train\.schedule"):
        parse_space(["train.schedule=linear,cosin"], RECIPE)
    with pytest.raises(Exception, match="learning_rte"):
        parse_space(["train.learning_rte=1e-5..1e-3"], RECIPE)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(SweepError, match=r"(?s)a=1.*b=2.*given twice"):
        parse_space(["a=1", "b=2", "train.epochs=1..2", "train.epochs=1..3"], RECIPE)


@pytest.mark.parametrize("key", ["data.seed", "model.name", "train.max_length"])
def test_what_changes_the_rows_that_are_scored_is_not_searched(key: str) -> None:
    with pytest.raises(SweepError, match=f"{key}: trials are compared on the same rows"):
        check_space((Choice(key, (1, 2)),))


def test_values_go_back_into_a_recipe_unchanged() -> None:
    values: dict[str, Any] = {"train.learning_rate": 1.5e-5, "train.tokens_per_step": 512, "train.schedule": "cosine"}
    changed = Recipe.parse(RECIPE.model_dump(mode="json"), overrides=overrides(values))
    assert changed.train.learning_rate == 1.5e-5
    assert (changed.train.tokens_per_step, changed.train.schedule) == (512, "cosine")


def test_a_budget_is_trials_or_time() -> None:
    assert read_budget(None, None) == Budget(trials=20)
    assert read_budget(None, "30m") == Budget(seconds=1800)
    with pytest.raises(SweepError, match="exclude each other"):
        read_budget(3, "30m")
    with pytest.raises(SweepError, match="not a duration"):
        read_budget(None, "soon")


def test_a_space_knows_which_values_it_holds() -> None:
    assert Range("train.learning_rate", 1e-5, 1e-3, log=True).holds(1e-4)
    assert not Range("train.learning_rate", 1e-5, 1e-3).holds(2e-3)
    assert Choice("train.tokens_per_step", (256, 512)).holds(512)
    assert not Choice("train.tokens_per_step", (256, 512)).holds(200)
