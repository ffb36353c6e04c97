"""The sentence at the top: right about better, worse, unchanged, copied, unfinished."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tunesmith.report.tables import read_score
from tunesmith.report.verdict import Verdict, judge
from tunesmith.run.artefacts import Comparison, DataAccount, Interval, Result, Score
from tunesmith.run.directory import RunDir

MakeScore = Callable[..., Score]


@pytest.fixture
def result(tiny_run: RunDir) -> Result:
    """Of a model that became much better."""
    losses = {"eval_loss": 3.052, "eval_loss_base": 4.45, "best_eval_loss": 3.052}
    perplexities = {"eval_perplexity": 21.16, "eval_perplexity_base": 85.6}
    return tiny_run.read(Result).model_copy(update=losses | perplexities)


@pytest.fixture
def comparison(tiny_run: RunDir, make_score: MakeScore) -> Comparison:
    """Of the same model: it writes like the real texts and forgot a little."""
    known = tiny_run.read(Comparison)
    return with_scores(
        known,
        heldout_loss=make_score("lower", "nats per token", 4.45, 3.052, None, 0.07),
        heldout_perplexity=make_score("lower", "tokens", 85.6, 21.16, None, 2.1),
        style_auc=make_score("lower", "AUC", 0.99, 0.68, None, 0.05),
        ended=make_score("real", "share", 0.31, 0.98, 1.0, 0.02),
        repetition=make_score("real", "share", 0.11, 0.01, 0.0, 0.01),
        copied_texts=make_score("at most real", "share", 0.0, 0.02, 0.016, 0.02),
        general_loss=make_score("lower", "nats per token", 3.1, 3.3, None, 0.05),
    )


def with_scores(comparison: Comparison, **scores: Score) -> Comparison:
    return comparison.model_copy(update={"scores": {**comparison.scores, **scores}})


def with_change(comparison: Comparison, name: str, value: float, low: float, high: float) -> Comparison:
    change = Interval(value=value, low=low, high=high)
    return with_scores(comparison, **{name: comparison.scores[name].model_copy(update={"change": change})})


def changed(result: Result, **values: Any) -> Result:
    return result.model_copy(update=values)


def levels(verdict: Verdict, word: str) -> list[str]:
    return [fact.status for fact in verdict.facts if word in fact.found]


def test_a_better_model_is_called_better_with_its_numbers(result: Result, comparison: Comparison) -> None:
    verdict = judge(result, comparison)
    assert verdict.kind == "better"
    assert verdict.level == "good"
    for number in ("4.450", "3.052", "85.6", "21.2", "0.99", "0.68"):
        assert number in verdict.sentence, number
    assert verdict.sentence.count(".") - verdict.sentence.count(". ") >= 1
    assert verdict.sentence.endswith(".")


def test_a_worse_model_is_called_worse(result: Result, comparison: Comparison) -> None:
    verdict = judge(changed(result, eval_loss=4.85), with_change(comparison, "heldout_loss", 0.4, 0.3, 0.5))
    assert (verdict.kind, verdict.level) == ("worse", "bad")
    assert "got worse" in verdict.sentence
    assert "4.450" in verdict.sentence
    assert "4.850" in verdict.sentence


def test_a_change_within_chance_is_no_change(result: Result, comparison: Comparison) -> None:
    same = with_change(comparison, "heldout_loss", -0.01, -0.05, 0.03)
    assert judge(changed(result, eval_loss=4.44), same).kind == "same"
    assert judge(changed(result, eval_loss=4.449), None).kind == "same"
    assert judge(changed(result, eval_loss=4.40), None).kind == "better"


def test_without_a_result_the_comparison_decides(comparison: Comparison) -> None:
    verdict = judge(None, comparison)
    assert verdict.kind == "better"
    assert "4.450" in verdict.sentence


def test_a_copying_model_is_told_so_in_the_sentence(
    result: Result, comparison: Comparison, make_score: MakeScore
) -> None:
    copying = with_scores(comparison, copied_texts=make_score("at most real", "share", 0.0, 0.6, 0.016, 0.02))
    verdict = judge(result, copying)
    assert verdict.kind == "better"
    assert verdict.level == "note"
    assert "but it copies: 60% of its texts" in verdict.sentence
    assert levels(verdict, "copies") == ["bad"]


def test_copying_as_much_as_real_texts_is_not_held_against_it(
    result: Result, comparison: Comparison, make_score: MakeScore
) -> None:
    less = make_score("at most real", "share", 0.0, 0.05, 0.06, 0.02)
    assert levels(judge(result, with_scores(comparison, copied_texts=less)), "no more than real") == ["good"]
    assert read_score(less) == ("no more than real", "good")
    little = make_score("at most real", "share", 0.0, 0.06, 0.05, 0.02)
    assert levels(judge(result, with_scores(comparison, copied_texts=little)), "may copy") == ["note"]


def test_overfitting_endless_repeating_and_forgetting_are_named(
    result: Result, comparison: Comparison, make_score: MakeScore
) -> None:
    bad = with_change(comparison, "general_loss", 1.2, 1.0, 1.4)
    bad = with_scores(
        bad,
        ended=make_score("real", "share", 0.9, 0.2, 1.0, 0.02),
        repetition=make_score("real", "share", 0.0, 0.6, 0.0, 0.02),
    )
    verdict = judge(changed(result, best_eval_loss=2.9, best_step=60), bad)
    assert levels(verdict, "by heart") == ["bad"]
    assert levels(verdict, "end by themselves") == ["bad"]
    assert levels(verdict, "repeats itself") == ["bad"]
    assert levels(verdict, "forgot") == ["bad"]
    assert "step 60" in next(fact.found for fact in verdict.facts if "by heart" in fact.found)


def test_the_best_step_is_told_with_what_came_after_it(result: Result) -> None:
    kept = changed(
        result, best_eval_loss=3.052, best_step=60, last_eval_loss=3.2, steps=80, num_evaluations=8, ended_early=True
    )
    fact = next(fact for fact in judge(kept, None).facts if fact.name == "best_step")
    assert "step 60, where the held-out loss was lowest (3.052); it was 3.200 at step 80" in fact.found
    assert "ended there" in fact.found
    assert "20 steps after it, 25% of the training, gave nothing" in fact.found
    assert "lowest of 8 evaluations of the same rows flatters; rows that decide nothing" in fact.found
    tested = judge(changed(kept, test_loss=3.1, ended_early=False), None)
    assert any("went to its last step" in fact.found and "say 3.100" in fact.found for fact in tested.facts)
    last = changed(kept, best_step=80, last_eval_loss=3.052)
    assert not any(fact.name == "best_step" for fact in judge(last, None).facts)


def test_unfinished_and_empty_runs_say_so(result: Result) -> None:
    assert judge(None, None).kind == "unfinished"
    stopped = judge(changed(result, stopped="SIGTERM", steps=40), None)
    assert stopped.kind == "unfinished"
    assert "SIGTERM after 40 steps" in stopped.sentence
    assert judge(changed(result, eval_loss=None, best_eval_loss=None), None).kind == "unmeasured"


def test_readings_follow_direction_and_interval(make_score: MakeScore) -> None:
    assert read_score(make_score("lower", "AUC", 0.9, 0.6, None, 0.02)) == ("better", "good")
    assert read_score(make_score("lower", "AUC", 0.6, 0.9, None, 0.02)) == ("worse", "bad")
    assert read_score(make_score("higher", "share", 0.6, 0.9, None, 0.02)) == ("better", "good")
    assert read_score(make_score("real", "words", 60, 30, 28, 1)) == ("nearer to real", "good")
    assert read_score(make_score("real", "words", 28, 30, 28, 0.5)) == ("further from real", "bad")
    assert read_score(make_score("lower", "AUC", 0.9, 0.89, None, 0.02)) == ("no clear change", "note")
    unknown = make_score("lower", "AUC", 0.9, 0.89, None, 0.02).model_copy(update={"base": None, "tuned": None})
    assert read_score(unknown) == ("", "note")


def test_the_sentence_carries_the_rows_and_the_interval(
    result: Result, comparison: Comparison, tiny_run: RunDir
) -> None:
    data = tiny_run.read(DataAccount)
    changed_by = with_change(comparison, "heldout_loss", -1.398, -1.5, -1.3)
    sentence = judge(result, changed_by, data).sentence
    assert (
        f"on {data.splits['eval'].documents} held-out rows, a change of −1.398 (95% interval −1.500 to −1.300)"
        in sentence
    )
    assert f"on {comparison.counts.held_out_documents} held-out rows" in judge(result, changed_by).sentence
    assert "without an interval until both models are compared" in judge(result, None, data).sentence


def test_a_dry_run_says_so_and_is_never_called_good(result: Result, comparison: Comparison, tiny_run: RunDir) -> None:
    data = tiny_run.read(DataAccount).model_copy(update={"small": True})
    splits = {"train": data.splits["train"].model_copy(update={"documents": 100})}
    splits["eval"] = data.splits["eval"].model_copy(update={"documents": 22})
    verdict = judge(result, comparison, data.model_copy(update={"splits": splits}))
    assert verdict.sentence.startswith("This was a dry run: 100 rows, 22 held out. The tuned model")
    assert (verdict.kind, verdict.level) == ("better", "note")
    assert judge(None, None, data).dry_run
    assert judge(result, comparison, tiny_run.read(DataAccount)).dry_run == ""


@pytest.mark.parametrize("real", [0.59, 0.7, 0.55, 0.3])
def test_much_copied_text_is_never_good_whatever_real_texts_share(
    result: Result, comparison: Comparison, make_score: MakeScore, real: float
) -> None:
    copies = make_score("at most real", "share", 0.0, 0.59, real, 0.05)
    verdict = judge(result, with_scores(comparison, copied_texts=copies))
    assert verdict.level == "note"
    assert "59% of its texts" in verdict.sentence
    assert "good" not in levels(verdict, "59%")
    assert read_score(copies)[1] != "good"


def test_a_run_stopped_before_its_first_evaluation_was_not_measured(result: Result) -> None:
    early = changed(result, stopped="SIGTERM", steps=4, eval_loss=None, best_eval_loss=None, best_step=None)
    sentence = judge(early, None).sentence
    assert "Its held-out loss is not measured yet; the base's is 4.450." in sentence
