"""Wall time until the held-out loss that the reference recipe, and the best HF setup, reach after one epoch.

All runs start from the same weights and see the same rows with the same start and end tokens. Evaluation is not timed.
The reference's loss is found by running its updates (one row each, its learning rate) without the padding, which
changes nothing but the time; its time is the measured time of a padded row times the number of rows.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.variants import optimizer_step, padded_batch, quiet
from tunesmith.machine.detect import processor_prefers_bf16
from tunesmith.plan.schedule import MIN_TOKENS_PER_STEP
from tunesmith.step import StepSettings, make_optimizer

HF_LEARNING_RATE = 2e-4
HF_BATCH = 32
"""16 ended at 3.8075 where 32 ended at 3.8041, and took longer."""
REFERENCE_LEARNING_RATE = 5e-5
WARMUP_FRACTION = 0.03
EVALUATIONS = 8
TOKENS_PER_ROW = 33
EVAL_TOKENS = 2048


@dataclass(frozen=True)
class Task:
    """Which model is trained on which rows."""

    model: str
    rows: Path
    num_rows: int
    eval_fraction: float
    folder: Path
    learning_rate: float = 2e-4


def compare_runs(task: Task, reference_seconds_per_sample: float) -> dict[str, Any]:
    """Runs every setup once. Returns the runs and the two ratios; None where the loss was not reached."""
    with quiet():
        curve = tunesmith_curve(task)
        data, model = _load(task)
        start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        seconds = _train_hf(model, data.train, HF_BATCH)
        best = {
            "seconds": seconds,
            "loss": _held_out(model, data),
            "what": f"Trainer, grouped by length, batch {HF_BATCH}, lr {HF_LEARNING_RATE:g}",
        }
        runs: dict[str, Any] = {"hf_sorted": best}
        model.load_state_dict(start)
        _train_reference(model, data.train)
        reference = {
            "seconds": reference_seconds_per_sample * len(data.train),
            "loss": _held_out(model, data),
            "what": f"reference recipe, lr {REFERENCE_LEARNING_RATE:g} (time: measured seconds a row x rows)",
        }
        runs["reference"] = reference
        runs["tunesmith"] = _end_of(curve, "tunesmith train, its defaults")
        longer = curve
        if seconds_to(curve, reference["loss"]) is None:  # it makes an update for every row
            longer = tunesmith_curve(task, epochs=2, rate=0.5)
            what = f"tunesmith train, train.epochs=2, train.learning_rate={task.learning_rate / 2:g}"
            runs["tunesmith_2_epochs"] = _end_of(longer, what)
    return {
        "num_rows": len(data.train),
        "curve": curve,
        "longer_curve": longer,
        "runs": runs,
        "time_to_loss_vs_reference": _ratio(longer, reference),
        "time_to_loss_vs_hf": _ratio(curve, best),
    }


def _end_of(curve: list[tuple[float, float]], what: str) -> dict[str, Any]:
    return {"seconds": curve[-1][0], "loss": curve[-1][1], "what": what}


def seconds_to(curve: list[tuple[float, float]], loss: float) -> float | None:
    """When the curve first reaches `loss`, between two evaluations in proportion; None when it never does."""
    for (begin, high), (end, low) in pairwise(curve):
        if low <= loss:
            share = 1.0 if high <= low else min(1.0, max(0.0, (high - loss) / (high - low)))
            return begin + share * (end - begin)
    return None


def _ratio(curve: list[tuple[float, float]], run: dict[str, Any]) -> float | None:
    seconds = seconds_to(curve, run["loss"])
    return None if not seconds else float(run["seconds"] / seconds)


def tunesmith_curve(task: Task, epochs: int = 1, rate: float = 1.0) -> list[tuple[float, float]]:
    """(training seconds, held-out loss) at every evaluation of `tunesmith train` with its own plan.

    rate: the share of the task's learning rate.
    """
    import tunesmith
    from tunesmith.run.directory import RunDir

    recipe = _recipe(task, epochs, rate)
    run = tunesmith.train(recipe, out=task.folder / "run", fresh=True)
    return curve_of(RunDir.open(run.path).metrics())


def curve_of(lines: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """Training seconds exclude what passed between the line of a step and the evaluation after it."""
    curve, seconds, before = [], 0.0, 0.0
    for line in lines:
        if "eval_loss" not in line:
            seconds += line["time"] - before
        else:
            curve.append((seconds, line["eval_loss"]))
        before = line["time"]
    return curve


def _recipe(task: Task, epochs: int = 1, rate: float = 1.0) -> Any:
    from tunesmith.recipe import Recipe

    tokens = task.num_rows * (1 - task.eval_fraction) * TOKENS_PER_ROW * epochs
    every = max(1, round(tokens / MIN_TOKENS_PER_STEP / EVALUATIONS))
    return Recipe(
        model={"name": task.model},
        data={
            "path": str(task.rows),
            "text": "description",
            "max_rows": task.num_rows,
            "eval_fraction": task.eval_fraction,
            "near_duplicates": False,
        },
        train={"learning_rate": task.learning_rate * rate, "epochs": epochs},
        eval={"every": every},
        save={"every": "1h"},
    )


def _load(task: Task) -> tuple[Any, Any]:
    """The same documents and weights."""
    from tunesmith.data import prepare
    from tunesmith.models.find import find_model
    from tunesmith.models.load import load_model
    from tunesmith.models.tokenizer import load_tokenizer

    recipe = _recipe(task)
    source = find_model(task.model)
    data = prepare(recipe.data, load_tokenizer(source), recipe.train.max_length)
    return data, load_model(source).train()


@contextlib.contextmanager
def _fast_path(model: Any) -> Iterator[None]:
    """Where time does not count; a peer is timed without it."""
    from tunesmith import fast

    applied = fast.apply(model)
    yield
    applied.restore()


def _held_out(model: Any, data: Any) -> float:
    from tunesmith.evaluate import evaluate

    with _fast_path(model):
        loss = evaluate(model, data.eval, max_tokens=EVAL_TOKENS).loss
    model.train()
    return float(loss)


def _optimizer(model: Any, rate: float, steps: int, warmup: int) -> tuple[Any, Any]:
    optimizer = make_optimizer(model.parameters(), StepSettings(learning_rate=rate))

    def linear(step: int) -> float:
        return min((step + 1) / warmup if warmup else 1.0, (steps - step) / max(1, steps - warmup))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, linear)


def _train_hf(model: Any, documents: Any, batch_size: int) -> float:
    """One epoch as Trainer with grouping by length runs it, in this processor's faster type. Returns its seconds."""
    order = np.argsort(documents.lengths, kind="stable")
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    np.random.default_rng(7).shuffle(batches)
    steps = len(batches)
    optimizer, schedule = _optimizer(model, HF_LEARNING_RATE, steps, math.ceil(WARMUP_FRACTION * steps))
    started = time.perf_counter()
    for batch in batches:
        rows = [np.asarray(documents[int(i)][0], dtype=np.int64) for i in batch]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=processor_prefers_bf16()):
            loss = model(**padded_batch(rows, "cpu"), use_cache=False).loss
        loss.backward()
        del loss
        optimizer_step(model, optimizer)
        schedule.step()
    return time.perf_counter() - started


def _train_reference(model: Any, documents: Any) -> None:
    from tunesmith import fast

    order = np.random.default_rng(7).permutation(len(documents))
    optimizer, schedule = _optimizer(model, REFERENCE_LEARNING_RATE, len(order), 0)
    with _fast_path(model):
        for i in order:
            flat = fast.flatten([documents[int(i)]])
            model(flat=flat, denominator=flat.num_targets).loss.backward()
            optimizer_step(model, optimizer)
            schedule.step()
