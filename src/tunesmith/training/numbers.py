"""Numbers that went wrong: found within one step, never saved, explained.

A non-finite loss or weight always shows in the next gradient norm, which the trainer reads anyway; so one host
synchronisation a step is enough, and weights are looked at once more before each save.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.errors import TrainingError
from tunesmith.training.checkpoint import last_good

if TYPE_CHECKING:
    import torch

_CAUSES = (
    "Likely causes: a learning rate that is too high (try a tenth of it), fp16 where bf16 is possible "
    "(train.precision: bf16), or a base model whose weights are damaged (see what it writes with `tunesmith generate`)."
)
_WINDOW = 20
_MIN_HISTORY = 5


def check_finite(step: int, checkpoints: Path, **values: float) -> None:
    """Raise TrainingError when a value (loss, grad_norm, ...) of `step` is NaN or infinite.

    Nothing of the step is kept: the message names the newest whole checkpoint in the folder `checkpoints`.
    """
    bad = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise _error(step, checkpoints, " and ".join(bad))


def check_weights(step: int, checkpoints: Path, model: torch.nn.Module) -> None:
    """Raise TrainingError that names the parameters of `model` that are not finite. Reads the device once."""
    import torch

    parameters = [(name, p.detach()) for name, p in model.named_parameters() if p.requires_grad]
    largest = torch.nn.utils.get_total_norm([p for _, p in parameters], norm_type=math.inf)
    if math.isfinite(float(largest)):
        return
    bad = [name for name, p in parameters if not bool(torch.isfinite(p).all())]
    more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
    raise _error(step, checkpoints, f"not finite: parameter {', '.join(bad[:3])}{more}")


def loss_spikes(losses: Sequence[float | None]) -> list[int]:
    """Positions of losses that stand out above those before them.

    A spike is more than 6 robust standard deviations (1.4826 times the median absolute deviation) and more than a tenth
    above the median of the last 20 losses that were no spikes themselves. The first 5 losses are never spikes; null
    losses are passed over.
    """
    spikes: list[int] = []
    history: list[float] = []
    for position, loss in enumerate(losses):
        if loss is None:
            continue
        if len(history) >= _MIN_HISTORY and loss > _limit(history[-_WINDOW:]):
            spikes.append(position)
        else:
            history.append(loss)
    return spikes


def _limit(history: list[float]) -> float:
    median = statistics.median(history)
    deviation = 1.4826 * statistics.median(abs(loss - median) for loss in history)
    return median + max(6 * deviation, 0.1 * abs(median))


def _error(step: int, checkpoints: Path, found: str) -> TrainingError:
    good = last_good(checkpoints)
    kept = f"The last good checkpoint is {good}." if good else "No checkpoint was written before."
    return TrainingError(f"step {step}: {found}. Training stopped; nothing of this step is saved. {kept} {_CAUSES}")
