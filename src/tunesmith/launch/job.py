"""What is launched, as a value: the command of every machine, and what each machine must be."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from tunesmith.errors import RunError

PORT = 29500
"""Where the first machine waits for the others; torchrun's usual one."""
_NAME = re.compile(r"[^a-z0-9]+")
_HOURS = re.compile(r"(?:(\d+)-)?(\d{1,3}):([0-5]\d):([0-5]\d)")


@dataclass(frozen=True)
class Job:
    """One run on `num_nodes` machines with `num_processes` training processes each, one a GPU where there are GPUs."""

    recipe: Path
    out: Path
    num_nodes: int = 1
    num_processes: int = 1
    overrides: tuple[str, ...] = ()
    wall_time: str | None = None
    """hours:minutes:seconds, or days-hours:minutes:seconds; None leaves it to the engine."""
    gpu: str | None = None
    """Name of the GPU that each process needs, as the engine calls it; None: none is asked for."""
    image: str | None = None
    """Container image that has tunesmith, for Kubernetes."""
    volume: str | None = None
    """Persistent volume claim with the recipe, the data and the run, for Kubernetes."""
    partition: str | None = None
    """Of SLURM."""
    spot: bool = False
    """Machines that may be taken away, for SkyPilot."""

    def __post_init__(self) -> None:
        """Raise RunError for what no engine can start."""
        for value, option in ((self.num_nodes, "--nodes"), (self.num_processes, "--procs")):
            if value < 1:
                raise RunError(f"launch: {option} {value}: expected at least 1.")
        if self.wall_time is not None and not _HOURS.fullmatch(self.wall_time):
            raise RunError(f"launch: --time {self.wall_time}: expected hours:minutes:seconds, such as 12:00:00.")

    @property
    def name(self) -> str:
        """Letters, digits and dashes, at most 50, as every engine allows them."""
        return _NAME.sub("-", f"tunesmith-{self.out.name}".lower()).strip("-")[:50].rstrip("-")

    @property
    def wall_seconds(self) -> int | None:
        match = _HOURS.fullmatch(self.wall_time or "")
        if match is None:
            return None
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds

    @property
    def train_arguments(self) -> list[str]:
        """`train RECIPE ...` as one process of the run is started."""
        arguments = ["train", str(self.recipe), "--out", str(self.out)]
        for override in self.overrides:
            arguments += ["--set", override]
        return arguments

    @property
    def machine_arguments(self) -> list[str]:
        """As `train_arguments`, for all processes of one machine."""
        return [*self.train_arguments, *(["--procs", str(self.num_processes)] if self.num_processes > 1 else [])]

    @property
    def train_command(self) -> str:
        """For a shell, one process."""
        return shlex.join(["tunesmith", *self.train_arguments])

    @property
    def machine_command(self) -> str:
        """For a shell, all processes of one machine."""
        return shlex.join(["tunesmith", *self.machine_arguments])
