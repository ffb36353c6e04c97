"""The processes that train together, through accelerate: one of them, or what a launcher started."""

from __future__ import annotations

import contextlib
import os
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from numpy.typing import NDArray

from tunesmith.errors import TrainingError
from tunesmith.machine.energy import EnergyMeter, gpu_millijoules
from tunesmith.run.artefacts import Plan
from tunesmith.training.processes.sharding import gradients_stay, shard

EXCHANGE_SECONDS = 1800
"""An exchange waits so long for the slowest process: the first one writes a large checkpoint meanwhile."""


class Team:
    """This process among those that train together. `rank` 0 writes and speaks for all."""

    def __init__(self, plan: Plan) -> None:
        views = DistributedDataParallelKwargs(gradient_as_bucket_view=True)  # else DDP holds all gradients twice
        waiting = InitProcessGroupKwargs(timeout=timedelta(seconds=EXCHANGE_SECONDS))
        self._accelerator = Accelerator(cpu=plan.device == "cpu", kwargs_handlers=[waiting, views])
        self.device: torch.device = self._accelerator.device
        self.rank: int = self._accelerator.process_index
        self.size: int = self._accelerator.num_processes
        self.shards = plan.sharding == "full" and self.size > 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    def shard(self, model: Any) -> None:
        """Split the model over the processes where the plan says so: before its optimizer is made."""
        if self.shards:
            shard(model, self.device, self.size)

    def wrap(self, model: Any) -> Any:
        """The model as all processes train it: gradients are averaged over them in backward."""
        return model if self.size == 1 or self.shards else self._accelerator.prepare_model(model)

    def alone(self, model: Any) -> contextlib.AbstractContextManager[Any]:
        """Inside, gradients stay in this process: those of all but the last micro-batch of a step."""
        if self.size == 1:
            return contextlib.nullcontext()
        return gradients_stay(model) if self.shards else self._accelerator.no_sync(model)

    def means(self, values: torch.Tensor) -> torch.Tensor:
        """The mean of each value over the processes."""
        found: torch.Tensor = values if self.size == 1 else self._accelerator.reduce(values, "mean")
        return found

    def has_lost_one(self, error: BaseException) -> bool:
        """Whether an exchange failed because another process is gone; gloo has no error of its own for that."""
        if self.size == 1:
            return False
        return isinstance(error, torch.distributed.DistError) or "gloo" in str(error) or "closed by peer" in str(error)

    def sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum of each value over the processes."""
        if self.size == 1:
            return values
        total = torch.from_numpy(values).to(self.device)
        torch.distributed.all_reduce(total)
        found: NDArray[np.float64] = total.cpu().numpy()
        return found

    def told(self, message: Any) -> Any:
        """What the first process says, in all of them. Plain data; all call together."""
        said = [message]
        torch.distributed.broadcast_object_list(said)
        return said[0]

    @staticmethod
    def lost(error: BaseException, step: int) -> TrainingError:
        """What to say of a step whose exchange failed."""
        how = "is gone"
        if "timed out" in str(error).lower() or "timeout" in str(error).lower():
            how = f"did not answer within {EXCHANGE_SECONDS // 60} minutes"
        return TrainingError(
            f"step {step}: another process of this run {how}, so that it cannot go on. The same command goes on from "
            "the newest checkpoint."
        )

    def energy_meter(self) -> EnergyMeter | None:
        """Of the GPUs on which this machine trains, for the process that writes."""
        if self.device.type != "cuda" or not self.is_first:
            return None
        number = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        devices = [self.device.index or 0] if number == 1 else range(number)
        uuids = [str(torch.cuda.get_device_properties(device).uuid) for device in devices]
        return EnergyMeter(gpu_millijoules(uuids))

    def agree(self, *wishes: bool) -> list[bool]:
        """What any process wishes, all do: clocks and signals differ between them, and some of it needs everybody."""
        if self.size == 1:
            return list(wishes)
        votes = torch.tensor(wishes, dtype=torch.int32, device=self.device)
        torch.distributed.all_reduce(votes, op=torch.distributed.ReduceOp.MAX)
        return [bool(vote) for vote in votes.tolist()]
