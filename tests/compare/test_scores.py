"""Planted writers: each score must see what it is for, and see nothing where nothing is."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from tunesmith.compare.copying import find_copies, find_nearest
from tunesmith.compare.intervals import Bootstrap, interval, weighted_mean, wilson_interval
from tunesmith.compare.losses import DocumentLosses, loss_by_group, score_losses
from tunesmith.compare.scores import Writing, cut_to, distinct, repetition, score_writing
from tunesmith.run.artefacts import Interval, Score

NUM_TEXTS = 64


@pytest.fixture(scope="module")
def rows(shows_csv: Path) -> list[str]:
    with shows_csv.open(encoding="utf-8", newline="") as file:
        return [row["description"] for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def train(rows: list[str]) -> list[str]:
    return rows[4 * NUM_TEXTS :]


@pytest.fixture(scope="module")
def real(rows: list[str], train: list[str]) -> Writing:
    return writing(rows[:NUM_TEXTS], train)


@pytest.fixture(scope="module")
def faithful(rows: list[str], train: list[str]) -> Writing:
    """A perfect model: other texts of the same kind."""
    return writing(rows[NUM_TEXTS : 2 * NUM_TEXTS], train)


def writing(texts: Sequence[str], train: Sequence[str], *, ended: bool = True) -> Writing:
    nearest = [found.similarity if found else 0.0 for found in find_nearest(texts, train)]
    return Writing(texts, [ended] * len(texts), find_copies(texts, train), nearest)


def value(of: Interval | None) -> float:
    assert of is not None
    assert of.low is not None
    assert of.value is not None
    assert of.high is not None
    assert of.low <= of.value <= of.high
    return of.value


def excludes_zero(score: Score) -> bool:
    assert score.change is not None
    assert score.change.low is not None
    assert score.change.high is not None
    return score.change.low > 0 or score.change.high < 0


def test_a_model_equal_to_base_changes_no_score(faithful: Writing, real: Writing) -> None:
    scores, _ = score_writing(faithful, faithful, real)
    for name, score in scores.items():
        assert value(score.change) == 0, name
        assert not excludes_zero(score), name


def test_a_faithful_model_cannot_be_told_from_real_texts(faithful: Writing, real: Writing) -> None:
    scores, _ = score_writing(faithful, faithful, real)
    style = scores["style_auc"].tuned
    assert style is not None
    assert style.low < 0.5 < style.high
    assert value(scores["copied_texts"].tuned) <= value(scores["copied_texts"].real) + 0.05


def test_a_model_that_memorised_copies(faithful: Writing, real: Writing, train: list[str]) -> None:
    scores, _ = score_writing(faithful, writing(train[:NUM_TEXTS], train), real)
    assert value(scores["copied_texts"].tuned) == 1.0
    assert value(scores["copied_words"].tuned) == 1.0
    assert value(scores["nearest_similarity"].tuned) == pytest.approx(1.0, abs=1e-5)
    assert value(scores["copied_texts"].real) < 0.2
    assert excludes_zero(scores["copied_texts"])
    longest = scores["copied_longest"]
    assert value(longest.tuned) > 3 * value(longest.real)


def test_a_model_that_memorised_half_is_seen_too(
    faithful: Writing, real: Writing, rows: list[str], train: list[str]
) -> None:
    half = NUM_TEXTS // 2
    mixed = [*train[:half], *rows[NUM_TEXTS : NUM_TEXTS + half]]
    scores, _ = score_writing(faithful, writing(mixed, train), real)
    assert value(scores["copied_texts"].tuned) == pytest.approx(0.5, abs=0.1)
    assert excludes_zero(scores["copied_texts"])


def test_a_model_that_repeats_is_seen_by_repetition_and_variety(
    faithful: Writing, real: Writing, train: list[str]
) -> None:
    loop = writing(["the sea was calm and the sea was calm and " * 6] * NUM_TEXTS, train)
    scores, telling = score_writing(faithful, loop, real)
    assert value(scores["repetition"].tuned) > 0.8
    assert value(scores["repetition"].base) < 0.02
    assert all(excludes_zero(scores[f"distinct_{n}"]) for n in (1, 2, 3))
    assert value(scores["distinct_2"].tuned) < 0.05
    assert value(scores["style_auc"].tuned) > 0.99
    assert "calm" in telling


def test_one_text_over_and_over_has_no_repetition_but_no_variety(
    faithful: Writing, real: Writing, rows: list[str], train: list[str]
) -> None:
    scores, _ = score_writing(faithful, writing([rows[100]] * NUM_TEXTS, train), real)
    assert value(scores["repetition"].tuned) < 0.05
    assert value(scores["distinct_3"].tuned) < 0.05
    assert excludes_zero(scores["distinct_3"])


def test_a_model_that_never_stops_is_seen_by_its_endings_and_lengths(
    faithful: Writing, real: Writing, rows: list[str], train: list[str]
) -> None:
    endless = [f"{first} {second}" for first, second in zip(rows[:NUM_TEXTS], rows[64 : 64 + NUM_TEXTS], strict=True)]
    scores, _ = score_writing(faithful, writing(endless, train, ended=False), real)
    assert value(scores["ended"].tuned) == 0
    assert scores["ended"].tuned is not None
    assert 0.03 < scores["ended"].tuned.high < 0.08  # none of 64 is not none at all
    assert value(scores["ended"].real) == 1
    assert excludes_zero(scores["ended"])
    distance = scores["length_distance"]
    assert value(distance.tuned) == pytest.approx(value(scores["length"].tuned) - value(scores["length"].real))
    assert value(distance.base) < 3
    assert value(distance.tuned) > 5 * value(distance.real)


def test_a_model_that_writes_nothing_is_scored_and_does_not_look_real(
    faithful: Writing, real: Writing, train: list[str]
) -> None:
    scores, _ = score_writing(faithful, writing([""] * NUM_TEXTS, train), real)
    assert value(scores["style_auc"].tuned) == 1.0
    assert value(scores["length"].tuned) == 0
    assert scores["distinct_1"].tuned is not None
    assert scores["distinct_1"].tuned.value is None


def test_too_few_texts_for_a_classifier_leave_style_out(rows: list[str], train: list[str]) -> None:
    few = writing(rows[:9], train)
    scores, telling = score_writing(few, few, few)
    assert "style_auc" not in scores
    assert telling == []
    assert "copied_texts" in scores
    nothing = writing([], train)
    assert score_writing(nothing, nothing, nothing) == ({}, [])


def test_distinct_and_repetition_by_hand() -> None:
    everything = np.ones((1, 2))
    texts = [list("abab"), list("abc")]
    assert distinct(texts, 1)(everything)[0] == pytest.approx(3 / 7)
    assert distinct(texts, 2)(everything)[0] == pytest.approx(3 / 5)
    assert distinct(texts, 1)(np.array([[2.0, 0.0]]))[0] == pytest.approx(2 / 8)
    assert repetition(list("abcdabcd")) == pytest.approx(1 / 5)
    assert math.isnan(repetition(list("abc")))


def test_cutting_shortens_the_longest_texts_to_the_budget() -> None:
    texts = [list("aaaaaaaaaa"), list("bbb"), list("cccccc")]
    assert [len(text) for text in cut_to(texts, 11)] == [4, 3, 4]
    assert cut_to(texts, 100) == texts
    assert cut_to([], 5) == []


def test_bootstrap_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(100):
        found = Bootstrap(60, seed).interval(weighted_mean(generator.normal(1.0, 2.0, 60)))
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 1.0 <= found.high
    assert 85 <= covered <= 100


def test_wilson_interval_matches_the_published_formula() -> None:
    share, low, high = wilson_interval(8, 10)
    assert (share, round(low, 4), round(high, 4)) == (0.8, 0.4902, 0.9433)
    assert wilson_interval(0, 10)[1] == 0
    assert wilson_interval(10, 10)[2] == 1
    assert wilson_interval(0, 0) == (0.5, 0.0, 1.0)


def test_what_cannot_be_told_is_none_and_not_nan() -> None:
    assert interval(1.0, math.nan, math.inf) == Interval(value=1.0, low=None, high=None)
    nothing = Bootstrap(4).interval(weighted_mean(np.full(4, math.nan)))
    assert nothing == Interval(value=None, low=None, high=None)


@pytest.mark.parametrize("trials", [1, 2, 7, 40, 1000])
def test_wilson_interval_is_scipys_for_whole_counts(trials: int) -> None:
    for wins in {0, 1, trials // 3, trials - 1, trials}:
        theirs = binomtest(wins, trials).proportion_ci(0.95, method="wilson")
        _, low, high = wilson_interval(wins, trials)
        assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_a_tie_counts_half_in_wilsons_interval() -> None:
    less, half, more = (wilson_interval(wins, 10) for wins in (5, 5.5, 6))
    assert half[0] == 0.55
    assert less[1:] < half[1:] < more[1:]


def losses(base: list[float], tuned: list[float], tokens: list[int]) -> DocumentLosses:
    num_tokens = np.array(tokens, float)
    return DocumentLosses(np.array(base) * num_tokens, np.array(tuned) * num_tokens, num_tokens, 4 * num_tokens)


def test_held_out_losses_are_means_over_tokens_not_documents() -> None:
    scores = score_losses(losses([4.0, 2.0], [3.0, 1.0], [10, 30]))
    assert value(scores["heldout_loss"].base) == pytest.approx(2.5)
    assert value(scores["heldout_loss"].change) == pytest.approx(-1.0)
    assert value(scores["heldout_perplexity"].tuned) == pytest.approx(math.exp(1.5))
    assert value(scores["heldout_bits_per_byte"].tuned) == pytest.approx(1.5 / math.log(2) / 4)


def test_loss_by_group_shows_where_the_model_lost() -> None:
    base, tuned = [3.0] * 12, [2.0] * 8 + [5.0] * 4
    table = loss_by_group(losses(base, tuned, [10] * 12), ["shows"] * 8 + ["code"] * 4)
    assert [(row.name, row.num_documents, row.num_tokens) for row in table] == [
        ("shows", 8, 80),
        ("code", 4, 40),
    ]
    assert table[0].change.value == pytest.approx(-1.0)
    assert table[1].change.low == pytest.approx(2.0)
