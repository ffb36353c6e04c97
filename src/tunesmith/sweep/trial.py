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
from tunesmith.sweep.marks import Marks
from tunesmith.sweep.space import Value, overrides
from tunesmith.sweep.study import RUN, SCORES, SHARES, Study

if TYPE_CHECKING:
    import optuna

    from tunesmith.pipeline import Prepared

TRIALS = "trials"
NEVER = "10000h"
"""Checkpoints between would cost more than a trial that is cut off."""


def run_trial(study: Study, trial: optuna.Trial, recipe: Recipe, prepared: Prepared) -> float:
    """The held-out loss of the recipe with the values that `trial` suggests.

    Raises optuna.TrialPruned for one that is behind the others, TunesmithError for values
    that cannot be trained with, Stopped for a stop that was asked for.
    """
    import optuna

    from tunesmith import pipeline

    values = {one.key: one.suggest(trial) for one in study.space}
    asked, marks = _recipe(recipe, values, prepared)
    path = study.folder / TRIALS / f"{trial.number:04d}"
    trial.set_user_attr(RUN, path.name)
    seen: list[tuple[int, float]] = []

    def score(step: int, scores: EvalScores) -> None:
        if step == 0:
            return
        seen.append((step, scores.eval_loss))
        trial.set_user_attr(SCORES, [loss for _, loss in seen])
        trial.set_user_attr(SHARES, [marks.share(at) for at, _ in seen])
        number = marks.number(step)
        if number is not None:
            trial.report(marks.loss_at(number, seen), marks.tokens(number))

    def behind() -> bool:
        return bool(seen) and marks.number(seen[-1][0]) is not None and trial.should_prune()

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
    """Delete the models of all trials that ended but the best; another worker may be writing its own."""
    best = study.best
    for trial in study.ended:
        run = trial.user_attrs.get(RUN)
        if run is not None and (best is None or trial.number != best.number):
            shutil.rmtree(study.folder / TRIALS / run / MODEL, ignore_errors=True)


def _recipe(recipe: Recipe, values: dict[str, Value], prepared: Prepared) -> tuple[Recipe, Marks]:
    """The recipe of a trial: its evaluations stand at its marks, and nothing of it is exported."""
    from tunesmith.plan import detect_machine, make_plan

    asked = Recipe.parse(recipe.model_dump(mode="json"), "sweep", overrides=overrides(values))
    per_step = asked.train.tokens_per_step
    if per_step == "auto":
        per_step = make_plan(asked, prepared.data, detect_machine(), source=prepared.source).tokens_per_step
    marks = Marks.of(asked, per_step, prepared.data.train.lengths)
    changes: dict[str, object] = {
        "save.every": NEVER,
        "save.keep": 1,
        "eval.samples": 0,
        "eval.every": marks.every,
        "export.format": None,
    }
    return asked.with_values(**changes), marks


def _forget_states(path: Path) -> None:
    """A trial is not gone on with; its optimizer's state would fill the disk."""
    shutil.rmtree(path / CHECKPOINTS, ignore_errors=True)


def describe_failure(error: TunesmithError) -> str:
    """The first line of why values could not be trained with."""
    return str(error).splitlines()[0]
