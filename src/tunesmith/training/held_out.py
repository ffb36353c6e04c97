"""Scores of the held-out documents: of the base model, the last ones, and the best."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tunesmith.data import TokenizedDocuments
from tunesmith.evaluate import Scores, Together, evaluate
from tunesmith.machine.memory import release_memory
from tunesmith.run.artefacts import EvalScores
from tunesmith.training.checkpoints.state import rng_state, set_rng_state


@dataclass
class ScoresSoFar:
    """What a run that goes on must know of its evaluations."""

    base: EvalScores | None = None
    last: EvalScores | None = None
    """Of the model in training; None before its first evaluation: the base's scores are not its own."""
    best_loss: float | None = None
    best_step: int | None = None
    best: EvalScores | None = None
    """Of the step whose weights are kept as the best; None where none are."""
    num_scored: int = 0
    """Evaluations of the model in training."""
    since_best: int = 0
    """Of these, after the one with the lowest loss."""
    is_pending: bool = False
    """A stop cut the evaluation of the saved step short; it is made before the next step."""

    @property
    def of_model(self) -> EvalScores | None:
        """Of the weights that become the model."""
        return self.best or self.last

    def forget_best(self) -> None:
        """Its weights are not there."""
        self.best_loss = self.best_step = self.best = None
        self.since_best = 0


@dataclass
class HeldOut:
    """Scores documents with the model as it is, in the arithmetic of the steps, and never disturbs training.

    max_tokens: fed tokens of a batch; it shrinks by itself where memory runs out. progress(done, total) is told
    documents and may raise.
    """

    model: Any
    documents: TokenizedDocuments
    arithmetic: Callable[[], contextlib.AbstractContextManager[Any]]
    max_tokens: int
    progress: Callable[[int, int], None]
    together: Together | None = None
    """Processes that score together; all of them must ask for scores."""
    so_far: ScoresSoFar = field(default_factory=ScoresSoFar)

    @property
    def is_empty(self) -> bool:
        """Nothing was held out."""
        return self.documents.num_targets == 0

    def score(self, documents: TokenizedDocuments | None = None, *, alone: bool = False) -> Scores:
        """Scores of the held-out documents, or of others. Random numbers are as before. alone: by this process."""
        random_state = rng_state()
        self.model.eval()
        try:
            with self.arithmetic():
                return evaluate(
                    self.model,
                    documents or self.documents,
                    max_tokens=self.max_tokens,
                    progress=self.progress,
                    together=None if alone else self.together,
                )
        finally:
            self.model.train()
            set_rng_state(random_state)
            release_memory()

    def is_best(self, step: int, scores: Scores) -> bool:
        """Whether no step before had a loss as low; the base model is none."""
        return step > 0 and (self.so_far.best_loss is None or scores.loss < self.so_far.best_loss)

    def keep(self, step: int, scores: Scores, *, is_best: bool, weights_stay: bool) -> EvalScores:
        """Remember the scores of a step. weights_stay: those of the best step are kept."""
        found = eval_scores(scores)
        self.so_far.is_pending = False
        if step == 0:
            self.so_far.base = found
            return found
        self.so_far.last = found
        self.so_far.num_scored += 1
        self.so_far.since_best += 1
        if is_best:
            self.so_far.best_loss, self.so_far.best_step, self.so_far.since_best = scores.loss, step, 0
            self.so_far.best = found if weights_stay else None
        return found


def eval_scores(scores: Scores) -> EvalScores:
    """Held-out scores under the names of metrics.jsonl and result.json."""
    return EvalScores(
        eval_loss=scores.loss,
        eval_perplexity=scores.perplexity,
        eval_bits_per_byte=scores.bits_per_byte,
        eval_token_accuracy=scores.token_accuracy,
    )
