"""What happens between steps: when to evaluate, to save, and to end early."""

from __future__ import annotations

import math

from tunesmith.forecast.run import Forecast
from tunesmith.forecast.workload import Workload
from tunesmith.plan.schedule import as_asked
from tunesmith.recipe import Every, Recipe, duration_seconds
from tunesmith.run.artefacts import ASKED
from tunesmith.units import format_bytes

EVALUATIONS_WANTED = 8
STEPS_BETWEEN = 10  # at least, of two evaluations: fewer make a short run longer and say little
EVALUATION_SHARE = 0.10
LEAST_PATIENCE, PATIENCE_SHARE = 3, 0.25
"""Evaluations that a run waits for a lower held-out loss, at least, and as a share of all: while the rate is high the
loss may stand still, and fall when it is lowered."""
SAVE_SHARE = 0.03
MIN_SAVE_SECONDS = 120


def choose_eval_every(recipe: Recipe, forecast: Forecast, num_steps: int, reasons: dict[str, str]) -> tuple[Every, int]:
    """When to evaluate, and how many evaluations that makes, the one of the base model and the last included."""
    asked = recipe.eval.every
    share = forecast.evaluation_share
    if asked != "auto":
        steps = asked if isinstance(asked, int) else _steps_in(duration_seconds(asked), forecast, num_steps)
        evaluations = 1 + math.ceil(num_steps / max(1, steps))
        reasons["eval_every"] = ASKED + _much_evaluation(evaluations * share)
        return asked, evaluations
    written = 0.0 if recipe.train.early_stopping is False else forecast.best_share
    wanted = min(EVALUATIONS_WANTED, num_steps // STEPS_BETWEEN)
    freely, evaluations = (
        max(1, min(wanted, int(EVALUATION_SHARE / each) if each else wanted)) for each in (share, share + written)
    )
    every = math.ceil(num_steps / evaluations)
    evaluations = math.ceil(num_steps / every)
    times = "once at the end" if evaluations == 1 else f"{evaluations} times"
    reasons["eval_every"] = f"{times}, each {share:.1%} of the training's arithmetic"
    if evaluations < freely:
        reasons["eval_every"] += f"; to keep the best weights takes {written:.0%} of it each time"
    reasons["eval_every"] += _much_evaluation((1 + evaluations) * share)
    return every, 1 + evaluations


def choose_early_stopping(recipe: Recipe, workload: Workload, evaluations: int, reasons: dict[str, str]) -> int | None:
    """Evaluations without a lower held-out loss that are waited for; None: for ever."""
    asked = recipe.train.early_stopping
    if asked is False:
        reasons["early_stopping"] = ASKED
        return None
    if not len(workload.eval.fed):
        reasons["early_stopping"] = "nothing is held out"
        return None
    if not isinstance(asked, bool | str):
        return as_asked(asked, "early_stopping", reasons)
    if evaluations < 2:
        reasons["early_stopping"] = "one evaluation leaves nothing to choose"
        return None
    reasons["early_stopping"] = f"a quarter of {evaluations} evaluations, at least {LEAST_PATIENCE}; the best is kept"
    return max(LEAST_PATIENCE, math.ceil(PATIENCE_SHARE * evaluations))


def _much_evaluation(share: float) -> str:
    """What to say when all evaluations together, as a share of the training, take more than a third of the run."""
    if share <= 1 / 2:
        return ""
    return f"; evaluation takes {share / (1 + share):.0%} of the run: fewer held-out rows or a longer eval.every help"


def choose_save_every(recipe: Recipe, forecast: Forecast, reasons: dict[str, str]) -> Every:
    """When to save: seldom enough that it takes little of the time."""
    asked = recipe.save.every
    if asked != "auto":
        reasons["save_every"] = ASKED
        return asked
    seconds = max(MIN_SAVE_SECONDS, math.ceil(forecast.seconds_of_save / SAVE_SHARE))
    size = format_bytes(forecast.disk.checkpoint_bytes)
    reasons["save_every"] = (
        f"a checkpoint of {size} takes about {forecast.seconds_of_save:.0f} s, at most 3% of the time"
    )
    return f"{seconds}s"


def interval_seconds(every: Every, forecast: Forecast, num_steps: int) -> float:
    """Seconds between two of what happens so often."""
    if isinstance(every, str):
        return duration_seconds(every)
    return every * forecast.time.train_seconds / num_steps


def _steps_in(seconds: float, forecast: Forecast, num_steps: int) -> int:
    return max(1, round(seconds / max(forecast.time.train_seconds / num_steps, 1e-9)))
