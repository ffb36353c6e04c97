"""Numbers that went wrong: found within one step, never saved, explained.

A non-finite loss or weight always shows in the next gradient norm, which the trainer reads anyway; so one host
synchronisation a step is enough, and weights are looked at once more before each save.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.errors import TrainingError
from tunesmith.training.checkpoints.checkpoint import last_good

if TYPE_CHECKING:
    import torch

_CAUSES = (
    "Likely causes: a learning rate that is too high (try a tenth of it), fp16 where bf16 is possible "
    "(train.precision: bf16), or a base model whose weights are damaged (see what it writes with `tunesmith generate`)."
)


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

    from tunesmith.training.processes.sharding import whole

    parameters = [(name, p.detach()) for name, p in model.named_parameters() if p.requires_grad]
    largest = torch.nn.utils.get_total_norm([p for _, p in parameters], norm_type=math.inf)
    if math.isfinite(float(whole(largest))):
        return
    bad = [name for name, p in parameters if not bool(torch.isfinite(whole(p)).all())]
    more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
    raise _error(step, checkpoints, f"not finite: parameter {', '.join(bad[:3])}{more}")


def _error(step: int, checkpoints: Path, found: str) -> TrainingError:
    good = last_good(checkpoints)
    kept = f"The last good checkpoint is {good}." if good else "No checkpoint was written before."
    return TrainingError(f"step {step}: {found}. Training stopped; nothing of this step is saved. {kept} {_CAUSES}")
