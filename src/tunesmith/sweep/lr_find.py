"""A learning rate from one short run whose rate grows tenfold every dozen steps (Smith, 2015)."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from tunesmith.errors import SweepError
from tunesmith.pipeline import Prepared
from tunesmith.recipe import Recipe
from tunesmith.run.directory import RunDir
from tunesmith.run.observer import Observer
from tunesmith.run.signals import StopRequest

LOWEST, HIGHEST, NUM_STEPS = 1e-6, 1e-1, 60
SMOOTHING = 0.8
"""Of the mean of losses that is looked at: one step's loss depends on its documents more than on its rate."""
BELOW_LOWEST = 10.0
"""The rate that is proposed lies this far below that of the lowest loss, at which training is about to run away."""
MIN_LOSSES = 12


@dataclass(frozen=True)
class Found:
    """What the test saw: the loss at each rate, smoothed, and the rate that follows."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smooth: tuple[float, ...]
    suggestion: float


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
        return judge(rates(), range_test(job, rates(), stop, observer))


def rates() -> tuple[float, ...]:
    """Equal factors from the lowest to the highest."""
    factor = (HIGHEST / LOWEST) ** (1 / (NUM_STEPS - 1))
    return tuple(LOWEST * factor**number for number in range(NUM_STEPS))


def judge(tried: Sequence[float], losses: Sequence[float]) -> Found:
    """The rate that follows from the losses. Raises SweepError where they never fell."""
    smooth = smoothed(losses)
    lowest = min(range(len(smooth)), key=smooth.__getitem__, default=0)
    if len(losses) < MIN_LOSSES or lowest == 0:
        raise SweepError(
            f"sweep --lr-find: the loss did not fall at any of {len(losses)} rates from {LOWEST:g} on. Look at the "
            "data (tunesmith data), or set train.learning_rate."
        )
    return Found(tuple(tried[: len(losses)]), tuple(losses), smooth, _round(tried[lowest] / BELOW_LOWEST))


def smoothed(losses: Sequence[float]) -> tuple[float, ...]:
    """The mean of the losses so far, the newest weighing most; without the pull of where it began (Kingma and Ba)."""
    sums = accumulate(losses, lambda before, loss: SMOOTHING * before + (1 - SMOOTHING) * loss, initial=0.0)
    return tuple(total / (1 - SMOOTHING**number) for number, total in enumerate(sums) if number)


def _round(rate: float) -> float:
    """To two digits: no more is known."""
    digits = 1 - math.floor(math.log10(rate))
    return round(rate, digits)
