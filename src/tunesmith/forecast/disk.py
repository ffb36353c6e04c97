"""What a run writes, and whether the disk has room for it."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tunesmith.run.artefacts import PredictedDisk
from tunesmith.units import format_bytes

MOMENTS_8BIT = 2.0 + 8 / 256
"""Bytes of adamw8bit's state per trained parameter."""
SMALL_FILES = 10_000_000


@dataclass(frozen=True)
class DiskForecast:
    """Bytes on disk."""

    checkpoint_bytes: int
    num_checkpoints: int
    """Kept at a time: those that save.keep says, the best, and one that is being written."""
    model_bytes: int
    """The tuned model, or its adapter."""
    best_bytes: int
    """The weights of the lowest held-out loss, and those that take their place; checkpoints link to them."""
    cache_bytes: int
    """Downloaded weights and tokenised data."""
    free_bytes: int | None
    """Where the run goes; None when planning for another machine."""

    def with_best(self, weight_bytes: int) -> DiskForecast:
        """Where the best weights are kept, of so many bytes: those before stay until the new ones are written."""
        return replace(self, best_bytes=2 * weight_bytes)

    @property
    def total_bytes(self) -> int:
        return self.checkpoint_bytes * self.num_checkpoints + self.model_bytes + self.best_bytes + self.cache_bytes

    @property
    def problem(self) -> str | None:
        """What to do when the disk is too small."""
        if self.free_bytes is None or self.total_bytes <= self.free_bytes:
            return None
        needed, free = format_bytes(self.total_bytes), format_bytes(self.free_bytes)
        lacking = format_bytes(self.total_bytes - self.free_bytes)
        return (
            f"the run writes up to {needed}, the disk has {free} free. "
            f"Free {lacking}, choose another --out, or lower save.keep."
        )

    def record(self) -> PredictedDisk:
        return PredictedDisk(**asdict(self), total_bytes=self.total_bytes)


def forecast_disk(
    *,
    num_parameters: int,
    num_trained: int,
    weight_bytes: int,
    optimizer: str,
    state_bytes: int,
    adapter: bool,
    keep: int,
    cache_bytes: int,
    out: Path | None,
) -> DiskForecast:
    """Disk use of a run. weight_bytes: of one weight as it is held. adapter: only trained weights are saved.
    state_bytes: of the optimizer, where it is not adamw8bit. cache_bytes: what is still to be downloaded, and the
    tokenised data.

    out: a directory on the disk that the run goes to; None when that is another machine.
    """
    trained = num_trained * (4 if adapter else weight_bytes)
    moments = int(num_trained * MOMENTS_8BIT) if optimizer == "adamw8bit" else state_bytes
    checkpoint = trained + moments + SMALL_FILES
    return DiskForecast(
        checkpoint_bytes=checkpoint,
        num_checkpoints=keep + 2,
        best_bytes=0,
        model_bytes=(trained if adapter else num_parameters * weight_bytes) + SMALL_FILES,
        cache_bytes=cache_bytes,
        free_bytes=None if out is None else _free_bytes(out),
    )


def _free_bytes(path: Path) -> int:
    """Free bytes of the disk that `path` is or will be on."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
