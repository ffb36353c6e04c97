"""A learning rate from one short run whose rate grows tenfold every ten steps (Smith, 2015).

What it is good for: where training runs away, and so the order of the rate, on data or a model that nobody tried. It is
no comparison of whole runs: each rate has one step, so it does not see which rate ends lowest, and flatters high rates,
most for adapters, which begin at zero and gain little from the first steps at any rate (docs/defaults.md).
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tunesmith.errors import SweepError
from tunesmith.pipeline import Prepared
from tunesmith.recipe import Recipe
from tunesmith.run.directory import RunDir
from tunesmith.run.observer import Observer
from tunesmith.run.signals import StopRequest

LOWEST, HIGHEST, NUM_STEPS = 1e-5, 1e-1, 40
"""Below the lowest a step moves nothing that a loss shows. Steps after the loss ran away are not made."""
BELOW_LOWEST = 10.0
"""The rate that is proposed lies this far below that of the lowest loss, at which training is about to run away."""


@dataclass(frozen=True)
class Found:
    """What the test saw: the loss at each rate, smoothed, and the rate that follows."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smooth: tuple[float, ...]
    suggestion: float
    method: str = "full"
    num_tokens: int = 0
    """Of all its steps, about."""
    seconds: float = 0.0
    """The model's loading included."""

    @property
    def lowest(self) -> int:
        """The step whose smoothed loss is the lowest."""
        return min(range(len(self.smooth)), key=self.smooth.__getitem__)

    @property
    def ran_away(self) -> bool:
        """The test ended before its highest rate."""
        return len(self.rates) < NUM_STEPS


def find_rate(recipe: Recipe, prepared: Prepared, stop: StopRequest, observer: Observer) -> Found:
    """Run the test on the recipe's model and data. Raises SweepError where the loss fell nowhere."""
    from tunesmith.plan import detect_machine, make_plan
    from tunesmith.training import Job, range_test
    from tunesmith.training.checkpoints.resume import model_fingerprint

    plan = make_plan(recipe, prepared.data, detect_machine(), source=prepared.source)
    fingerprints = {"data": prepared.data.fingerprint, "model": model_fingerprint(prepared.source)}
    with tempfile.TemporaryDirectory(prefix="tunesmith-") as folder:
        run_dir = RunDir.create(Path(folder) / "range")
        job = Job(
            recipe, plan, prepared.source, prepared.tokenizer, prepared.data, run_dir, fingerprints, checkpoint=None
        )
        began = time.monotonic()
        losses = range_test(job, rates(), stop, observer)
        seconds = time.monotonic() - began
    found = judge(rates(), losses)
    return replace(found, method=plan.method, num_tokens=len(losses) * plan.tokens_per_step, seconds=seconds)


def rates() -> tuple[float, ...]:
    """Equal factors from the lowest to the highest."""
    factor = (HIGHEST / LOWEST) ** (1 / (NUM_STEPS - 1))
    return tuple(LOWEST * factor**number for number in range(NUM_STEPS))


def judge(tried: Sequence[float], losses: Sequence[float]) -> Found:
    """The rate that follows from the losses. Raises SweepError where they never fell."""
    from tunesmith.training.rate_range import MIN_LOSSES, smoothed

    smooth = smoothed(losses)
    lowest = min(range(len(smooth)), key=smooth.__getitem__, default=0)
    if len(losses) < MIN_LOSSES or lowest == 0:
        raise SweepError(
            f"sweep --lr-find: the loss did not fall at any of {len(losses)} rates from {LOWEST:g} on. Look at the "
            "data (tunesmith data), or set train.learning_rate."
        )
    suggestion = _round(tried[lowest] / BELOW_LOWEST)
    return Found(tuple(tried[: len(losses)]), tuple(losses), smooth, suggestion)


def _round(rate: float) -> float:
    """To two digits: no more is known."""
    digits = 1 - math.floor(math.log10(rate))
    return round(rate, digits)
