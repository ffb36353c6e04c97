"""Who writes a checkpoint: the first process alone, or all processes of a sharded run, each its share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from tunesmith.disk import disk_errors
from tunesmith.training.checkpoints.shards import shards_beside, write_shards
from tunesmith.training.checkpoints.state import save_parameters
from tunesmith.training.processes.distributed import Team


@dataclass(frozen=True)
class Writers:
    """The processes that write together. The first leads: what is written, where, and when all is done.

    tensors: what this process has of them, by the name of the file.
    """

    team: Team
    tensors: Mapping[str, Mapping[str, Tensor]]

    def together(self, lead: Callable[[], object]) -> None:
        """Call `lead` in the first process; those that share its tensors write what it asks for meanwhile.

        Where it raises, the others learn of it by their next exchange.
        """
        shared = self.team.shards
        if self.team.is_first:
            lead()
            if shared:
                self.team.told(None)
        elif shared:
            while (path := self.team.told(None)) is not None:
                with disk_errors(path):
                    write_shards(self.tensors[path.name], shards_beside(path))

    def write(self, path: Path) -> None:
        """Whole tensors into a file; shards into the folder in its place. Called by what leads."""
        if not self.team.shards:
            save_parameters(self.tensors[path.name], path)
            return
        shards_beside(path).mkdir(mode=0o700)
        self.team.told(path)
        write_shards(self.tensors[path.name], shards_beside(path))
