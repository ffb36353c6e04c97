"""Lengths of documents, steps and the largest micro-batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tunesmith.data.tokens.steps import micro_batches
from tunesmith.forecast.workload import Split, Workload, reference_rows
from tunesmith.recipe import Recipe

NewRecipe = Callable[..., Recipe]


def test_the_worst_micro_batch_is_one_that_training_will_see(workload: Workload, new_recipe: NewRecipe) -> None:
    steps = workload.steps(new_recipe(), 512)
    worst = steps.worst_micro_batch(200)
    fed = workload.train.fed
    seen = {tuple(fed[batch]) for step in steps.all for batch in micro_batches(step, fed, 200)}
    assert worst in seen
    assert sum(worst) >= 0.9 * 200


def test_a_whole_step_in_one_pass_is_the_largest_step(workload: Workload, new_recipe: NewRecipe) -> None:
    steps = workload.steps(new_recipe(), 512)
    assert sum(steps.worst_micro_batch(steps.largest)) == steps.largest


def test_the_longest_document_counts_even_in_a_small_step(new_recipe: NewRecipe) -> None:
    lengths = np.array([300] + [10] * 500)
    steps = Workload(Split(lengths, 5300), Split(lengths[:0], 0), "here").steps(new_recipe(), 64)
    assert max(steps.worst_micro_batch(64)) == 300


def test_longer_documents_are_cut_into_equal_pieces() -> None:
    lengths = np.array([300, 7, 100, 101, 0])
    cut = Split(lengths, 500).cut(100)
    assert cut.fed.tolist() == [100, 100, 100, 7, 100, 51, 51]
    assert cut.num_targets == 500


def test_max_steps_cuts_the_tokens_but_not_the_steps(workload: Workload, new_recipe: NewRecipe) -> None:
    whole, cut = (workload.steps(new_recipe(max_steps=number), 512) for number in (None, 3))
    assert len(cut.all) == len(whole.all)
    assert cut.num_tokens < whole.num_tokens == workload.train.num_tokens


def test_assumed_lengths_reach_max_length_and_say_so(new_recipe: NewRecipe) -> None:
    workload = Workload.assume(new_recipe(max_length=512), "the hub does not answer", 512)
    assert workload.assumed
    assert workload.train.longest == 511
    assert workload.origin.startswith("the hub does not answer: assumed 10,000 documents of 16 to 512 tokens")
    assert len(workload.eval.fed) == 1_000


@pytest.mark.parametrize(
    ("micro", "whole", "expected"), [(2048, 2048, (1, 1)), (4096, 32768, (2, 8)), ("auto", "auto", (1, 1))]
)
def test_rows_of_a_plain_trainer(
    micro: object, whole: object, expected: tuple[int, int], new_recipe: NewRecipe
) -> None:
    recipe = new_recipe(loop="reference", max_length=2048, micro_batch_tokens=micro, tokens_per_step=whole)
    assert reference_rows(recipe, 2048) == expected


def test_the_longest_documents_are_scored_at_once() -> None:
    split = Split(np.array([3, 9, 5]), 17)
    assert [split.longest_batch(most) for most in (1, 13, 14, 100)] == [(9,), (9,), (9, 5), (9, 5, 3)]
    assert Split(np.array([], dtype=np.int64), 0).longest_batch(100) == ()
