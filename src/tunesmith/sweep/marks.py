"""Where trials are compared: after equal numbers of tokens, whatever the size of their steps.

A step is a whole number of documents, so no two trials stand at exactly the same token. Each is scored at the step
nearest to a quarter of its tokens, a half and three quarters, at most a step and a half off, and from the second on its
loss is carried to the mark along the line through its last two scores over the logarithm of the tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.tokens.steps import run_steps
from tunesmith.recipe import Recipe

EVALUATIONS = 4
"""Of each trial: at the marks and at its end."""
FEWEST_STEPS = 8
"""A shorter trial is never ended early: half a step is too far from a mark."""


@dataclass(frozen=True)
class Marks:
    """The marks of one trial. fed: tokens fed up to each of its steps, its total last."""

    fed: tuple[int, ...]

    @classmethod
    def of(cls, recipe: Recipe, tokens_per_step: int, lengths: NDArray[np.int64]) -> Marks:
        """Of the steps that training will make. lengths: [N] tokens of each training document."""
        fed = lengths - 1
        asked = recipe.train
        steps = run_steps(fed, tokens_per_step, seed=asked.seed, epochs=asked.epochs, max_steps=asked.max_steps)
        return cls(tuple(np.cumsum([int(fed[step].sum()) for step in steps]).tolist()))

    @property
    def every(self) -> int:
        """Steps from one evaluation to the next."""
        return max(1, round(len(self.fed) / EVALUATIONS))

    def share(self, step: int) -> float:
        """Of the tokens, fed up to a step."""
        return self.fed[step - 1] / self.fed[-1]

    def number(self, step: int) -> int | None:
        """Which mark a step stands at, from 1 on; None for none, and for the end, whose rate has fallen already."""
        if len(self.fed) < FEWEST_STEPS or step % self.every or not 0 < step < len(self.fed):
            return None
        number = step // self.every
        return number if number < EVALUATIONS else None

    def tokens(self, number: int) -> int:
        """Of a mark: equal for trials that are fed as much, and comparable for those that are fed more."""
        return round(self.fed[-1] * number / EVALUATIONS)

    def loss_at(self, number: int, seen: Sequence[tuple[int, float]]) -> float:
        """The loss at a mark. seen: step and held-out loss of each evaluation up to the one that stands there."""
        step, loss = seen[-1]
        if len(seen) < 2:
            return loss
        before, loss_before = seen[-2]
        slope = (loss - loss_before) / math.log(self.fed[step - 1] / self.fed[before - 1])
        return loss + slope * math.log(self.tokens(number) / self.fed[step - 1])
