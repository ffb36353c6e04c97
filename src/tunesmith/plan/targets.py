"""The devices that a run is planned for: this machine, a GPU of the table, or all of them, each in several numbers."""

from __future__ import annotations

from dataclasses import replace

from tunesmith.errors import PlanError
from tunesmith.forecast.forecaster import Target
from tunesmith.machine.detect import detect_machine
from tunesmith.machine.gpus import find_gpu, gpu_of_device, gpus
from tunesmith.plan.counts import Counts


def targets_of(gpu: str | None, counts: Counts, *, all_gpus: bool) -> list[list[Target]]:
    """Of each kind of device the numbers that are looked at, in growing order: of `gpu`, of all, or of this machine.

    Raises PlanError for an unknown GPU, and for more processes than this machine has devices for.
    """
    if not all_gpus and gpu is None:
        return [_here(counts)]
    rows = gpus() if all_gpus else (find_gpu(str(gpu)),)
    return [[Target.of_gpu(row, number.network(row)) for number in counts.ladder()] for row in rows]


def _here(counts: Counts) -> list[Target]:
    """This machine, with the numbers of processes that it can run."""
    machine, number = detect_machine(), counts.num_processes
    on_gpu = machine.device == "cuda"
    if counts.num_nodes > 1:
        raise PlanError(f"{counts.num_nodes} machines: this is one. Name the GPU that the others have with --gpu.")
    most, what = (machine.num_devices, "GPU") if on_gpu else (machine.num_cores, "core")
    if number > most:
        raise PlanError(
            f"--procs {number}: this machine has {most} {what}{'' if most == 1 else 's'}, one for each process. Take "
            f"at most {most}, or name the GPU of another machine with --gpu."
        )
    if counts.links and not on_gpu:
        raise PlanError(f"--interconnect {counts.links[0].key}: this machine has no GPU. Name one with --gpu.")
    row = gpu_of_device(machine.name) if on_gpu else None
    targets = []
    for count in counts.ladder():
        target = Target.of_machine(replace(machine, num_processes=count.num_processes), row)
        if on_gpu:
            target = replace(target, network=count.network(row))
        elif target.network is not None:
            target = replace(target, network=replace(target.network, takes_turns=count.num_processes))
        targets.append(target)
    return targets
