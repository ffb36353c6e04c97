"""The processes that train together, through accelerate: one of them, or what a launcher started."""

from __future__ import annotations

import contextlib
import importlib.util
from typing import Any

import torch
from accelerate import Accelerator

from tunesmith.errors import TrainingError
from tunesmith.redact import redact
from tunesmith.run.artefacts import JsonObject, Plan
from tunesmith.run.directory import TRACKERS, RunDir
from tunesmith.training.sharding import gradients_stay, shard

_PACKAGES = {"comet_ml": "comet_ml", "tensorboard": "tensorboard", "dvclive": "dvclive"}


class Team:
    """This process among those that train together. `rank` 0 writes and speaks for all."""

    def __init__(self, plan: Plan, run_dir: RunDir) -> None:
        self._accelerator = Accelerator(
            cpu=plan.device == "cpu",
            log_with=list(plan.report_to) or None,
            project_dir=str(run_dir.file(TRACKERS)) if plan.report_to else None,
        )
        self.device: torch.device = self._accelerator.device
        self.rank: int = self._accelerator.process_index
        self.size: int = self._accelerator.num_processes
        self.shards = plan.sharding == "full" and self.size > 1
        self._tracks = bool(plan.report_to)

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

    def agree(self, *wishes: bool) -> list[bool]:
        """What any process wishes, all do: clocks and signals differ between them, and some of it needs everybody."""
        if self.size == 1:
            return list(wishes)
        votes = torch.tensor(wishes, dtype=torch.int32, device=self.device)
        torch.distributed.all_reduce(votes, op=torch.distributed.ReduceOp.MAX)
        return [bool(vote) for vote in votes.tolist()]

    def start_trackers(self, config: JsonObject) -> None:
        """Begin what train.report_to names. Flat values of `config` are told without secrets."""
        if self._tracks:
            flat = {
                f"{section}.{key}": redact(str(value))
                for section, part in config.items()
                for key, value in part.items()
            }
            self._accelerator.init_trackers("tunesmith", flat)

    def track(self, values: JsonObject, step: int) -> None:
        if self._tracks:
            self._accelerator.log(values, step=step)

    def end_trackers(self) -> None:
        if self._tracks:
            self._accelerator.end_training()


def check_trackers(names: tuple[str, ...]) -> None:
    """Raise TrainingError for a tracker that accelerate does not know, or whose package is not installed."""
    from accelerate.utils import LoggerType

    known = [str(kind) for kind in LoggerType if str(kind) != "all"]
    for name in names:
        if name not in known:
            raise TrainingError(f"train.report_to: {name}: unknown tracker. Expected some of: {', '.join(known)}.")
        package = _PACKAGES.get(name, name)
        if importlib.util.find_spec(package) is None:
            raise TrainingError(f"train.report_to: {name} is not installed. Run: pip install {package}")
