"""The sweep: trials of one recipe until their number or their time is spent; the same command goes on with it."""

from __future__ import annotations

import gc
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunesmith.errors import Stopped, SweepError, TunesmithError
from tunesmith.pipeline import Prepared
from tunesmith.recipe import Recipe, duration_seconds
from tunesmith.sweep.outcome import write_outcome
from tunesmith.sweep.space import RATE, STEP, Space, default_space, parse_space
from tunesmith.sweep.study import Study
from tunesmith.sweep.trial import describe_failure, keep_best, run_trial

DEFAULT_TRIALS = 20
MAX_FAILED = 5
"""Trials in a row that could not be trained: the recipe is wrong, not its values."""
_CHANGES_SCORES = ("data.", "model.", "compare.", "eval.", "save.")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Budget:
    """How much a sweep may do; what is None does not count. Trials of earlier commands count, their seconds do not."""

    trials: int | None = None
    seconds: float | None = None


def read_budget(trials: int | None, time_text: str | None) -> Budget:
    """--trials or --budget. Raises SweepError for both, and for what is no time."""
    if trials is not None and time_text is not None:
        raise SweepError("sweep: --trials and --budget exclude each other. Give one.")
    if time_text is None:
        return Budget(trials=trials or DEFAULT_TRIALS)
    try:
        return Budget(seconds=duration_seconds(time_text))
    except ValueError as error:
        raise SweepError(f"sweep: --budget: {error}.") from None


def sweep(
    recipe: Recipe,
    folder: Path,
    prepared: Prepared,
    *,
    over: Sequence[str] = (),
    budget: Budget,
    joins: bool = False,
    opened: Callable[[], None] = lambda: None,
    say: Say,
) -> Study:
    """Search; writes best.yaml, trials.json and sweep.html in `folder` after each trial.

    over: as --over has it; without it the learning rate and the size of a step are searched. joins: another process
    leads this sweep. opened: called once others may join.

    Raises SweepError for a space that is none, Stopped for a stop that was asked for: the same command goes on.
    """
    from tunesmith.plan import detect_machine, make_plan
    from tunesmith.training.base import Base

    if prepared.data.eval.num_targets == 0:
        raise SweepError("sweep: no rows are held out, so trials cannot be compared. Set data.eval_fraction.")
    plan = make_plan(recipe, prepared.data, detect_machine(), source=prepared.source)
    space = parse_space(over, recipe) or default_space(plan)
    check_space(space)
    asked = {"recipe": recipe.model_dump(mode="json"), "data": prepared.data.fingerprint}
    study = Study.open(folder, space, asked, seed=recipe.train.seed)
    mended = 0 if joins else study.mend()
    if mended or study.num_made:
        say(f"{folder}: going on after {study.num_made} trials" + (f", {mended} of them cut off" if mended else ""))
        if not joins:
            write_outcome(study, recipe)  # also where no trial is left to make: of another version, or removed
    usual = {RATE: plan.learning_rate, STEP: plan.tokens_per_step}
    if all(one.key in usual and one.holds(usual[one.key]) for one in space):
        study.try_first({one.key: usual[one.key] for one in space})
    opened()
    _search(study, recipe, replace(prepared, base=Base()), budget, say)
    return study


def check_space(space: Space) -> None:
    """Raises SweepError for keys whose values change what is scored: losses are compared over the same rows."""
    for one in space:
        if one.key.startswith(_CHANGES_SCORES) or one.key == "train.max_length":
            raise SweepError(f"--over {one.key}: trials are compared on the same rows and tokens, which this changes.")


def _search(study: Study, recipe: Recipe, prepared: Prepared, budget: Budget, say: Say) -> None:
    began, failed = time.monotonic(), 0
    while not _is_spent(study, budget, time.monotonic() - began):
        trial = study.kept.ask()
        outcome = _one(study, trial, recipe, prepared)
        failed = failed + 1 if outcome.startswith("failed") else 0
        write_outcome(study, recipe)
        keep_best(study)
        say(f"trial {trial.number}: {_values(trial.params)}: {outcome}")
        if failed == MAX_FAILED:
            raise SweepError(f"sweep: {failed} trials in a row failed, the last because: {outcome}")
        gc.collect()


def _one(study: Study, trial: Any, recipe: Recipe, prepared: Prepared) -> str:
    """Make a trial and write down how it ended; returns that in words."""
    import optuna

    state, value, told = optuna.trial.TrialState.COMPLETE, None, ""
    try:
        value = run_trial(study, trial, recipe, prepared)
        told = f"held-out loss {value:.4f}"
    except optuna.TrialPruned:
        state, told = optuna.trial.TrialState.PRUNED, "ended early, behind the others at equal tokens"
    except TunesmithError as error:
        state, told = optuna.trial.TrialState.FAIL, f"failed: {describe_failure(error)}"
        trial.set_user_attr("why", describe_failure(error))
    except Stopped as error:
        raise Stopped(error.reason, shlex.join(["tunesmith", *sys.argv[1:]])) from None
    study.kept.tell(trial, value, state=state)
    return told


def _is_spent(study: Study, budget: Budget, seconds: float) -> bool:
    if budget.seconds is not None:
        return seconds >= budget.seconds
    return budget.trials is not None and study.num_begun >= budget.trials


def _values(values: dict[str, Any]) -> str:
    return ", ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()
    )
