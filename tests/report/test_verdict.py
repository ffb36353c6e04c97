"""The sentence at the top: right about better, worse, unchanged, copied, unfinished."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tunesmith.report.tables import read_score
from tunesmith.report.verdict import Verdict, judge

Scores = Callable[..., dict[str, Any]]


@pytest.fixture
def result(example_result: dict[str, Any]) -> dict[str, Any]:
    return example_result


@pytest.fixture
def comparison(example_comparison: dict[str, Any]) -> dict[str, Any]:
    return example_comparison


def levels(verdict: Verdict, word: str) -> list[str]:
    return [fact.level for fact in verdict.facts if word in fact.text]


def test_a_better_model_is_called_better_with_its_numbers(result: dict[str, Any], comparison: dict[str, Any]) -> None:
    verdict = judge(result, comparison)
    assert verdict.kind == "better"
    assert verdict.level == "good"
    for number in ("4.450", "3.052", "85.6", "21.2", "0.99", "0.68"):
        assert number in verdict.sentence, number
    assert verdict.sentence.count(".") - verdict.sentence.count(". ") >= 1
    assert verdict.sentence.endswith(".")


def test_a_worse_model_is_called_worse(result: dict[str, Any], comparison: dict[str, Any]) -> None:
    comparison["scores"]["heldout_loss"]["change"] = {"value": 0.4, "low": 0.3, "high": 0.5}
    verdict = judge({**result, "eval_loss": 4.85}, comparison)
    assert (verdict.kind, verdict.level) == ("worse", "bad")
    assert "got worse" in verdict.sentence
    assert "4.450" in verdict.sentence
    assert "4.850" in verdict.sentence


def test_a_change_within_chance_is_no_change(result: dict[str, Any], comparison: dict[str, Any]) -> None:
    comparison["scores"]["heldout_loss"]["change"] = {"value": -0.01, "low": -0.05, "high": 0.03}
    assert judge({**result, "eval_loss": 4.44}, comparison).kind == "same"
    assert judge({**result, "eval_loss": 4.449}, {}).kind == "same"
    assert judge({**result, "eval_loss": 4.40}, {}).kind == "better"


def test_a_copying_model_is_told_so_in_the_sentence(
    result: dict[str, Any], comparison: dict[str, Any], make_score: Scores
) -> None:
    comparison["scores"]["copied_texts"] = make_score("Copies", "at most real", "share", 0.0, 0.6, 0.016, 0.02)
    verdict = judge(result, comparison)
    assert verdict.kind == "better"
    assert verdict.level == "note"
    assert "but it copies: 60% of its texts" in verdict.sentence
    assert levels(verdict, "copies") == ["bad"]


def test_copying_as_much_as_real_texts_is_not_held_against_it(
    result: dict[str, Any], comparison: dict[str, Any], make_score: Scores
) -> None:
    comparison["scores"]["copied_texts"] = make_score("Copies", "at most real", "share", 0.0, 0.05, 0.06, 0.02)
    assert levels(judge(result, comparison), "no more than real") == ["good"]
    assert read_score(comparison["scores"]["copied_texts"]) == ("no more than real", "good")
    comparison["scores"]["copied_texts"] = make_score("Copies", "at most real", "share", 0.0, 0.06, 0.05, 0.02)
    assert levels(judge(result, comparison), "may copy") == ["note"]


def test_overfitting_endless_repeating_and_forgetting_are_named(
    result: dict[str, Any], comparison: dict[str, Any], make_score: Scores
) -> None:
    comparison["scores"]["ended"] = make_score("Ends", "real", "share", 0.9, 0.2, 1.0, 0.02)
    comparison["scores"]["repetition"] = make_score("Repeats", "real", "share", 0.0, 0.6, 0.0, 0.02)
    comparison["scores"]["general_loss"]["change"] = {"value": 1.2, "low": 1.0, "high": 1.4}
    overfit = {**result, "best_eval_loss": 2.9, "best_step": 60}
    verdict = judge(overfit, comparison)
    assert levels(verdict, "by heart") == ["bad"]
    assert levels(verdict, "end by themselves") == ["bad"]
    assert levels(verdict, "repeats itself") == ["bad"]
    assert levels(verdict, "forgot") == ["bad"]
    assert "step 60" in next(fact.text for fact in verdict.facts if "by heart" in fact.text)


def test_unfinished_and_empty_runs_say_so(result: dict[str, Any]) -> None:
    assert judge({}, {}).kind == "unfinished"
    stopped = judge({**result, "stopped": "SIGTERM", "steps": 40}, {})
    assert stopped.kind == "unfinished"
    assert "SIGTERM after 40 steps" in stopped.sentence
    assert judge({"train_loss": 3.0, "eval_loss": None, "stopped": None}, {}).kind == "unmeasured"


def test_readings_follow_direction_and_interval(make_score: Scores) -> None:
    assert read_score(make_score("s", "lower", "AUC", 0.9, 0.6, None, 0.02)) == ("better", "good")
    assert read_score(make_score("s", "lower", "AUC", 0.6, 0.9, None, 0.02)) == ("worse", "bad")
    assert read_score(make_score("s", "higher", "share", 0.6, 0.9, None, 0.02)) == ("better", "good")
    assert read_score(make_score("s", "real", "words", 60, 30, 28, 1)) == ("nearer to real", "good")
    assert read_score(make_score("s", "real", "words", 28, 30, 28, 0.5)) == ("further from real", "bad")
    assert read_score(make_score("s", "lower", "AUC", 0.9, 0.89, None, 0.02)) == ("no clear change", "note")
    assert read_score({"base": None, "tuned": None}) == ("", "note")
