"""The weights of the lowest held-out loss so far: a file beside the checkpoints, and in each of them by a hard link.

So a new best costs one write of the weights, a checkpoint of the same step none besides, and a run that goes on knows
the best of what was done before, whatever became of the file. Nothing is held in memory.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tunesmith.disk import disk_errors
from tunesmith.training.checkpoints.checkpoint import Checkpoint
from tunesmith.training.checkpoints.shards import shards_beside

BEST_STATE = "best.safetensors"
"""In a checkpoint whose own weights are not the best."""
TEMPORARY = ".best.safetensors"


@dataclass(frozen=True)
class BestWeights:
    """The best weights of one run. root: the folder of its checkpoints. The first process alone writes."""

    root: Path

    def path(self, step: int) -> Path:
        """Where the weights of a step are, if it is the best one; of a sharded run in the folder in its place."""
        return self.root / f"best-{step}.safetensors"

    def write(self, step: int, write: Callable[[Path], None]) -> None:
        """Keep what `write(path)` writes in the place of those before. Raises RunError when the disk is full."""
        path, temporary = self.path(step), self.root / TEMPORARY
        with disk_errors(path):
            self.root.mkdir(mode=0o700, exist_ok=True)
            _remove(temporary, shards_beside(temporary))
            write(temporary)
            _remove(path, shards_beside(path))
            path = _there(temporary).rename(path if temporary.is_file() else shards_beside(path))
            for file in (path, *path.glob("*")):
                file.chmod(0o700 if file.is_dir() else 0o600)
        self.clear(but=path)

    def put_into(self, folder: Path, name: str, step: int) -> bool:
        """Give a checkpoint the best weights under this name; whether they are there."""
        return _link(self.path(step), folder / name)

    def take_from(self, checkpoint: Checkpoint, step: int, own: str) -> bool:
        """Have what a checkpoint knows as the best, its `own` weights where it is of that step; whether it does."""
        self.clear()
        with disk_errors(self.path(step)):
            return _link(checkpoint.path / (own if checkpoint.step == step else BEST_STATE), self.path(step))

    def clear(self, but: Path | None = None) -> None:
        """Forget them: a checkpoint holds them, or they are the best no more."""
        _remove(*(path for path in (*self.root.glob("best-*"), *self.root.glob(".best*")) if path != but))


def _there(path: Path) -> Path:
    """The file, or the folder of shards in its place."""
    return shards if (shards := shards_beside(path)).is_dir() else path


def _remove(*paths: Path) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _link(source: Path, target: Path) -> bool:
    """The same file, or shards, under another name; a copy where the disk knows no links. Whether there are any."""
    source = _there(source)
    if source.is_dir():
        shards_beside(target).mkdir(mode=0o700)
        for file in source.iterdir():
            _link(file, shards_beside(target) / file.name)
        return True
    if not source.is_file():
        return False
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        target.chmod(0o600)
    return True
