"""The weights of the lowest held-out loss so far: a file beside the checkpoints, and in each of them by a hard link.

So a new best costs one write of the weights, a checkpoint of the same step none besides, and a run that goes on knows
the best of what was done before, whatever became of the file. Nothing is held in memory.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from tunesmith.disk import disk_errors
from tunesmith.training.checkpoints.checkpoint import Checkpoint
from tunesmith.training.checkpoints.state import save_parameters

BEST_STATE = "best.safetensors"
"""In a checkpoint whose own weights are not the best."""
_OURS = "best-*.safetensors"


@dataclass(frozen=True)
class BestWeights:
    """The best weights of one run. root: the folder of its checkpoints. The first process alone writes."""

    root: Path

    def path(self, step: int) -> Path:
        """Where the weights of a step are, if it is the best one."""
        return self.root / f"best-{step}.safetensors"

    def write(self, step: int, weights: Mapping[str, torch.Tensor]) -> None:
        """Keep these in the place of those before. Raises RunError when the disk is full."""
        path = self.path(step)
        temporary = path.with_suffix(".tmp")
        with disk_errors(path):
            self.root.mkdir(mode=0o700, exist_ok=True)
            save_parameters(weights, temporary)
            temporary.chmod(0o600)
            temporary.replace(path)
        self.clear(but=path)

    def put_into(self, folder: Path, name: str, step: int) -> bool:
        """Give a checkpoint the best weights under this name; whether they are there."""
        if not self.path(step).is_file():
            return False
        _link(self.path(step), folder / name)
        return True

    def take_from(self, checkpoint: Checkpoint, step: int, own: str) -> bool:
        """Have what a checkpoint knows as the best, its `own` weights where it is of that step; whether it does."""
        self.clear()
        name = own if checkpoint.step == step else BEST_STATE
        if name not in checkpoint.manifest.files:
            return False
        with disk_errors(self.path(step)):
            _link(checkpoint.path / name, self.path(step))
        return True

    def clear(self, but: Path | None = None) -> None:
        """Forget them: a checkpoint holds them, or they are the best no more."""
        for path in (*self.root.glob(_OURS), *self.root.glob("best-*.tmp")):
            if path != but:
                path.unlink()


def _link(source: Path, target: Path) -> None:
    """The same file under another name; a copy where the disk knows no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        target.chmod(0o600)
