"""The tuned model is written: in the type of the base model's files where that loses nothing that was measured.

An update is often smaller than half the last digit of a 16-bit weight, so that rounding the sum of all of them may undo
what was learned. So the rounded weights are scored on the held-out documents before they are written, and result.json
holds the scores of what is written.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunesmith.models.card import model_card
from tunesmith.models.load import save_model
from tunesmith.run.artefacts import ASKED, EvalScores, Result
from tunesmith.step import DTYPES
from tunesmith.training.held_out import eval_scores
from tunesmith.units import format_bytes

if TYPE_CHECKING:
    from tunesmith.training import Job
    from tunesmith.training.loop import Loop

LOSS_SHARE = 0.002
"""Share of the loss that rounding may cost: less than evaluation in bf16 differs from one in fp32 (5.588 and 5.583)."""
GAIN_SHARE = 0.02
"""Share of what training gained that rounding may cost, so that a little that was learned is not lost."""


@dataclass(frozen=True)
class _Written:
    """What is written: the type, its held-out scores where they were measured again, and why."""

    dtype: str
    scores: EvalScores | None = None
    why: str = ""


def save_tuned(job: Job, loop: Loop, result: Result) -> Result:
    """Write model/ so that plain transformers loads it. Returns the result with the scores of what was written."""
    if not loop.team.is_first:
        return result
    started = time.monotonic()
    written = _choose(job, loop)
    model = _assembled(job, loop) if loop.team.shards else loop.model
    with weights_in(model, written.dtype):
        if written.scores is not None:
            result = result.model_copy(update=written.scores.model_dump())
            if result.test_loss is not None:
                result = result.model_copy(update={"test_loss": loop.held_out.score(job.data.test, alone=True).loss})
        card = model_card(job.recipe, job.plan, job.source, job.data.account, result)
        with weights_in(model, written.dtype, held=True):
            save_model(model, job.tokenizer, job.run_dir.model, card)
    size = sum(file.stat().st_size for file in job.run_dir.model.rglob("*") if file.is_file())
    loop.recorder.note(
        f"saved {job.run_dir.model} ({written.dtype}, {format_bytes(size)}) in {time.monotonic() - started:.0f} s"
        + (f": {written.why}" if written.why else "")
    )
    return result


def _assembled(job: Job, loop: Loop) -> Any:
    """The whole model on the CPU, with the best weights, or those of the checkpoint that the last step left."""
    from tunesmith.models.load import load_model
    from tunesmith.step import StepSettings, prepare_model
    from tunesmith.training.checkpoints.saves import MODEL_STATE
    from tunesmith.training.checkpoints.state import load_trainable

    best = loop.held_out.so_far.best_step if loop.held_out.so_far.best is not None else None
    last = job.run_dir.checkpoints / f"step-{loop.step}" / MODEL_STATE

    model = prepare_model(load_model(job.source, dtype=job.plan.dtype, device="cpu"), StepSettings.of(job.plan))
    load_trainable(model, last if best in (None, loop.step) else loop.saves.best.path(best))
    return model


def rounding_is_free(base: float | None, trained: float, rounded: float) -> bool:
    """Whether the held-out loss of the rounded weights is that of the trained ones. base: before training."""
    allowed = LOSS_SHARE * trained
    if base is not None and base > trained:
        allowed = min(allowed, GAIN_SHARE * (base - trained))
    return math.isfinite(rounded) and rounded - trained <= allowed


@contextlib.contextmanager
def weights_in(model: Any, dtype: str, *, held: bool = False) -> Iterator[None]:
    """The weights rounded to a type, and afterwards as they were. Of a model with an adapter, the adapter's alone.

    held: also held in that type, as `save_pretrained` writes them; else in their own, as a model that computes in fp32
    has them after loading.
    """
    parts = [p for p in model.parameters() if p.is_floating_point() and p.dtype != DTYPES[dtype]]
    if hasattr(model, "peft_config"):
        parts = [p for p in parts if p.requires_grad]
    before = [p.data for p in parts]
    try:
        for parameter in parts:
            rounded = parameter.data.to(DTYPES[dtype])
            parameter.data = rounded if held else rounded.to(parameter.dtype)
        yield
    finally:
        for parameter, data in zip(parts, before, strict=True):
            parameter.data = data


def _choose(job: Job, loop: Loop) -> _Written:
    plan, trained = job.plan, loop.held_out.so_far.of_model
    held = "float32" if plan.lora is not None else plan.dtype
    if plan.save_dtype in (held, "float32"):  # nothing is rounded
        return _Written(plan.save_dtype)
    asked = plan.reasons.get("save_dtype") == ASKED
    if loop.team.shards and not asked:
        return _Written(held, why=f"weights in {plan.save_dtype} are not scored where they are sharded")
    if loop.held_out.is_empty or trained is None:
        if asked:
            return _Written(plan.save_dtype, why="the recipe says so; nothing was held out to measure what that loses")
        return _Written(held, why=f"nothing was held out to measure what rounding to {plan.save_dtype} loses")
    loop.recorder.doing("scoring the rounded weights")
    with weights_in(loop.model, plan.save_dtype):
        scores = eval_scores(loop.held_out.score(alone=True))
    base = None if loop.held_out.so_far.base is None else loop.held_out.so_far.base.eval_loss
    losses = f"held-out loss {scores.eval_loss:.4f}, {trained.eval_loss:.4f} before rounding"
    free = rounding_is_free(base, trained.eval_loss, scores.eval_loss)
    if free or asked:
        return _Written(plan.save_dtype, scores, losses)
    return _Written(
        held,
        why=f"{plan.save_dtype}, the type of the base model's files, would lose small updates ({losses}); "
        f"save.dtype: {plan.save_dtype} halves the size all the same",
    )
