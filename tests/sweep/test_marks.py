"""Trials are compared at equal tokens, whatever the size of their steps."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tunesmith.recipe import Recipe
from tunesmith.sweep.marks import EVALUATIONS, FEWEST_STEPS, Marks

RECIPE = Recipe(model={"name": "somewhere"}, data={"path": "x.csv", "text": "t"})
LENGTHS = np.random.default_rng(0).integers(10, 60, 400)
TOTAL = int((LENGTHS - 1).sum())


def loss_after(tokens: float) -> float:
    """A way that every trial goes, whatever its steps."""
    return 3.0 + 2.0 * (tokens / 300) ** -0.3


def scored(marks: Marks) -> list[tuple[int, float]]:
    """Step and loss of each evaluation of a trial."""
    steps = [step for step in range(1, len(marks.fed) + 1) if step % marks.every == 0 or step == len(marks.fed)]
    return [(step, loss_after(marks.fed[step - 1])) for step in steps]


def reported(marks: Marks) -> dict[int, float]:
    """Loss by tokens, as the search compares trials."""
    seen, found = scored(marks), {}
    for count in range(1, len(seen) + 1):
        number = marks.number(seen[count - 1][0])
        if number is not None:
            found[marks.tokens(number)] = marks.loss_at(number, seen[:count])
    return found


@pytest.mark.parametrize("tokens_per_step", [128, 200, 256, 300, 512, 700, 1024, 1500])
def test_marks_are_the_same_tokens_for_every_size_of_a_step(tokens_per_step: int) -> None:
    marks = Marks.of(RECIPE, tokens_per_step, LENGTHS)
    assert marks.fed[-1] == TOTAL
    found = reported(marks)
    assert list(found) == [round(TOTAL * number / EVALUATIONS) for number in (1, 2, 3)]
    for number in (1, 2, 3):
        assert abs(marks.fed[number * marks.every - 1] - marks.tokens(number)) <= 1.5 * max(np.diff(marks.fed))


def test_trials_that_go_the_same_way_are_told_apart_by_nothing() -> None:
    """Nearer than the losses of two trials ever are; uncorrected, the one that is scored later would win."""
    small, large = (Marks.of(RECIPE, tokens_per_step, LENGTHS) for tokens_per_step in (128, 1024))
    for tokens, loss in list(reported(large).items())[1:]:
        assert loss == pytest.approx(loss_after(tokens), abs=0.01)
        assert reported(small)[tokens] == pytest.approx(loss, abs=0.01)
    seen = scored(large)
    off = max(abs(seen[number][1] - loss_after(large.tokens(number + 1))) for number in (1, 2))
    assert off > 0.01


def test_twice_the_epochs_meet_at_their_common_tokens_and_not_at_the_end_of_the_shorter() -> None:
    short = Marks.of(RECIPE, 256, LENGTHS)
    long = Marks.of(RECIPE.with_values(**{"train.epochs": 2}), 256, LENGTHS)
    quarter = short.fed[-1] / 4
    assert set(reported(short)) & set(reported(long)) == {round(2 * quarter)}
    assert short.number(len(short.fed)) is None


def test_a_trial_of_few_steps_has_no_marks() -> None:
    for steps in range(1, FEWEST_STEPS):
        marks = Marks(tuple(range(100, 100 * steps + 1, 100)))
        assert all(marks.number(step) is None for step in range(steps + 2))
    marks = Marks(tuple(range(100, 100 * FEWEST_STEPS + 1, 100)))
    assert [marks.number(step) for step in range(FEWEST_STEPS + 1)] == [None, None, 1, None, 2, None, 3, None, None]


def test_a_loss_is_carried_along_the_logarithm_of_the_tokens() -> None:
    marks = Marks(tuple(range(100, 1001, 100)))  # every 2: scored at 200, 400, 600; marks at 250, 500, 750
    assert marks.loss_at(1, [(2, 4.0)]) == 4.0
    expected = 3.8 - 0.2 / math.log(2) * math.log(500 / 400)
    assert marks.loss_at(2, [(2, 4.0), (4, 3.8)]) == pytest.approx(expected)
