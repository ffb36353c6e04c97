"""A learning-rate range test (Smith, 2015): a short run whose rate grows with every step, and the loss at each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from tunesmith.training.loop import Loop

DIVERGED = 1.5
"""The test ends where the loss is this many times its lowest."""


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
        if not math.isfinite(loss) or (losses and loss > DIVERGED * min(losses)):
            break
        losses.append(loss)
        loop.update()
        loop.recorder.doing(f"rate {rate:.1e}, loss {loss:.3f} ({len(losses)} of {len(rates)})")
    return losses
