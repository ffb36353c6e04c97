"""What several runs of one process share: the base model, read once, and its scores on the held-out rows.

The weights are held once more, in main memory, and every run trains a copy.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.models.load import load_model

if TYPE_CHECKING:
    from tunesmith.evaluate import Scores
    from tunesmith.training import Job


@dataclass
class Base:
    """Of one model and one set of held-out rows."""

    _models: dict[str, Any] = field(default_factory=dict, repr=False)
    _scores: dict[tuple[object, ...], Scores] = field(default_factory=dict, repr=False)
    standard_error: float | None = None
    """Of the base's held-out loss, over documents; None before it was scored."""

    def model(self, job: Job) -> Any:
        """A copy of the model as the job's plan holds it. One whose weights are quantised is read anew."""
        plan = job.plan
        if plan.method == "qlora":
            return load_model(job.source, dtype=plan.dtype, device=plan.device, quantize=True)
        if plan.dtype not in self._models:
            self._models = {plan.dtype: load_model(job.source, dtype=plan.dtype)}
        return copy.deepcopy(self._models[plan.dtype]).to(plan.device)

    def scores(self, job: Job, score: Callable[[], Scores]) -> Scores:
        """Of the base model in the arithmetic of the job's plan; `score` makes them where they are not known."""
        plan, held_out = job.plan, job.data.account.splits["eval"].fingerprint
        key = (plan.method, plan.precision, plan.dtype, plan.micro_batch_tokens, held_out)
        if key not in self._scores:
            scores = self._scores[key] = score()
            self.standard_error = standard_error(scores.document_loss, job.data.eval.targets_per_document)
        return self._scores[key]


def standard_error(document_loss: NDArray[np.float64], num_targets: NDArray[np.int64]) -> float | None:
    """Of the mean loss a token, over other documents of this kind: how far these may lie from all. None for one."""
    count, tokens = len(document_loss), int(num_targets.sum())
    if count < 2:
        return None
    off = document_loss - document_loss.sum() / tokens * num_targets
    return float(np.sqrt((off**2).sum() * count / (count - 1)) / tokens)
