"""One trial: a run in FOLDER/trials, scored at equal shares of its tokens and ended early where it is behind."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from tunesmith.errors import Stopped, TunesmithError
from tunesmith.recipe import Recipe
from tunesmith.run.artefacts import EvalScores, Result
from tunesmith.run.directory import CHECKPOINTS, MODEL
from tunesmith.run.observer import Callbacks
from tunesmith.sweep.space import Value, overrides
from tunesmith.sweep.study import RUN, Study

if TYPE_CHECKING:
    import optuna

    from tunesmith.pipeline import Prepared

TRIALS = "trials"
EVALUATIONS = 4
"""Of each trial: after equal shares of its tokens."""
NEVER = "10000h"
"""Checkpoints between would cost more than a trial that is cut off."""


def run_trial(study: Study, trial: optuna.Trial, recipe: Recipe, prepared: Prepared, num_tokens: int) -> float:
    """The held-out loss of the recipe with the values that `trial` suggests.

    num_tokens: fed in an epoch. Raises optuna.TrialPruned for one that is behind the others, TunesmithError for values
    that cannot be trained with, Stopped for a stop that was asked for.
    """
    import optuna

    from tunesmith import pipeline

    values = {one.key: one.suggest(trial) for one in study.space}
    asked = _recipe(recipe, values, num_tokens, prepared)
    path = study.folder / TRIALS / f"{trial.number:04d}"
    trial.set_user_attr(RUN, path.name)
    seen: list[EvalScores] = []

    def score(step: int, scores: EvalScores) -> None:
        if step > 0:
            seen.append(scores)
            trial.report(scores.eval_loss, len(seen))

    def behind() -> bool:
        return 0 < len(seen) < EVALUATIONS and trial.should_prune()

    try:
        run_dir = pipeline.train(
            asked,
            path,
            prepared=prepared,
            fresh=True,
            console=Console(quiet=True),
            callbacks=Callbacks(on_evaluate=score, stop=behind),
        )
        loss = run_dir.read(Result).eval_loss
        assert loss is not None, "a sweep begins with held-out rows"
        return loss
    except Stopped:
        if not behind():
            raise
        raise optuna.TrialPruned from None
    finally:
        _forget_states(path)


def keep_best(study: Study) -> None:
    """Delete the models of all trials but the best."""
    best = study.best
    for path in sorted((study.folder / TRIALS).glob("*")):
        if best is None or path.name != best.user_attrs[RUN]:
            shutil.rmtree(path / MODEL, ignore_errors=True)


def _recipe(recipe: Recipe, values: dict[str, Value], num_tokens: int, prepared: Prepared) -> Recipe:
    """The recipe of a trial: its evaluations stand at equal shares of the run, and nothing of it is exported."""
    from tunesmith.plan import detect_machine, make_plan

    asked = Recipe.parse(recipe.model_dump(mode="json"), "sweep", overrides=overrides(values))
    changes: dict[str, object] = {"save.every": NEVER, "save.keep": 1, "eval.samples": 0, "export.format": None}
    per_step, steps = asked.train.tokens_per_step, asked.train.max_steps
    if steps is None:
        if per_step == "auto":
            per_step = make_plan(asked, prepared.data, detect_machine(), source=prepared.source).tokens_per_step
        steps = max(1, round(num_tokens * asked.train.epochs / per_step))
    changes["eval.every"] = max(1, -(-steps // EVALUATIONS))
    return asked.with_values(**changes)


def _forget_states(path: Path) -> None:
    """A trial is not gone on with; its optimizer's state would fill the disk."""
    shutil.rmtree(path / CHECKPOINTS, ignore_errors=True)


def describe_failure(error: TunesmithError) -> str:
    """The first line of why values could not be trained with."""
    return str(error).splitlines()[0]
