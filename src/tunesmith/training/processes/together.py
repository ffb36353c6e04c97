"""Whether all processes of a run were asked for the same, and one plan for all of them.

Each process plans for itself, with the memory that it finds free, and may come to another micro-batch or to shards
where the others hold copies; so all take the first one's plan. Another recipe, other data, another model or another
checkpoint is a mistake, which would show as a loss that is wrong or an exchange that never ends.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tunesmith.errors import TrainingError
from tunesmith.run.artefacts import Plan

if TYPE_CHECKING:
    from tunesmith.training import Job


@dataclass(frozen=True)
class Asked:
    """What must be the same in all processes."""

    recipe: dict[str, Any]
    fingerprints: dict[str, str]
    step: int
    """Where the run goes on."""
    version: str
    plan: dict[str, Any]


def agree_on(job: Job) -> Job:
    """The job with the first process's plan. Raises TrainingError where this run's processes differ."""
    import torch

    from tunesmith import __version__
    from tunesmith.training.processes.distributed import Team

    team = Team(job.plan)
    if team.size == 1:
        return job
    mine = Asked(
        job.recipe.model_dump(mode="json"),
        job.fingerprints,
        job.checkpoint.step if job.checkpoint is not None else 0,
        __version__,
        job.plan.to_json(),
    )
    everybody: list[Any] = [None] * team.size
    torch.distributed.all_gather_object(everybody, mine)
    first = everybody[0]
    for rank, other in enumerate(everybody[1:], start=1):
        if difference := differs(first, other):
            raise TrainingError(
                f"process {rank} of {team.size} was started for something else than the first: {difference}. Start "
                "all of them with one command, on folders that all machines see."
            )
    return replace(job, plan=Plan.parse(first.plan, "the first process's plan"))


def differs(first: Asked, other: Asked) -> str:
    """Where another process differs from the first one; empty where it does not."""
    for name, value in _flat(first.recipe).items():
        found = _flat(other.recipe).get(name)
        if found != value:
            return f"{name} is {found!r}, not {value!r}"
    for name, value in first.fingerprints.items():
        if other.fingerprints.get(name) != value:
            return f"its {name} has another fingerprint"
    if other.step != first.step:
        return f"it goes on from step {other.step}, not {first.step}"
    return "" if other.version == first.version else f"it runs tunesmith {other.version}, not {first.version}"


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """section.key -> value."""
    found: dict[str, Any] = {}
    for section, part in values.items():
        if isinstance(part, dict):
            found.update({f"{section}.{key}": value for key, value in part.items()})
        else:
            found[section] = part
    return found
