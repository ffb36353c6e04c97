"""A learning-rate range test (Smith, 2015): a short run whose rate grows with every step, and the loss at each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from itertools import accumulate

from tunesmith.training.loop import Loop

DIVERGED = 1.5
"""The test ends where the loss of a step is this many times its lowest,"""
RISEN = 1.1
"""or the smoothed loss this many times its own lowest: the loss of a single step is as far off by its documents."""
SMOOTHING = 0.8
"""Of the mean of losses that is looked at: one step's loss depends on its documents more than on its rate."""
MIN_LOSSES = 12
"""Before the smoothed loss says anything: it begins with what few documents say."""


def losses_at(loop: Loop, rates: Sequence[float]) -> list[float]:
    """The training loss of one optimizer step at each rate, in order; shorter than `rates` where the loss ran away.

    The model is left as these steps made it.
    """
    losses: list[float] = []
    for rate, documents in zip(rates, itertools.cycle(loop.batches.steps), strict=False):
        loop.stop.check()
        for group in loop.optimizer.param_groups:  # before backward, in which weights may move already
            group["lr"] = rate
        loss = float(loop.forward_backward(documents))
        if not math.isfinite(loss):
            break
        losses.append(loss)
        if ran_away(losses):
            break
        loop.update()
        loop.recorder.doing(f"rate {rate:.1e}, loss {loss:.3f} ({len(losses)} of {len(rates)})")
    return losses


def ran_away(losses: Sequence[float]) -> bool:
    """Whether higher rates would show nothing more."""
    if losses[-1] > DIVERGED * min(losses):
        return True
    smooth = smoothed(losses)
    return len(losses) >= MIN_LOSSES and smooth[-1] > RISEN * min(smooth)


def smoothed(losses: Sequence[float]) -> tuple[float, ...]:
    """The mean of the losses so far, the newest weighing most; without the pull of where it began (Kingma and Ba)."""
    sums = accumulate(losses, lambda before, loss: SMOOTHING * before + (1 - SMOOTHING) * loss, initial=0.0)
    return tuple(total / (1 - SMOOTHING**number) for number, total in enumerate(sums) if number)
