"""torchrun: one command for each host, which meet at the first.

The c10d rendezvous guesses which host keeps the store by comparing names, and fails where a host has several
addresses; `is_host` says it instead.
"""

from __future__ import annotations

import shlex

from tunesmith.launch.job import PORT, Job

FIRST_HOST = "FIRST_HOST"
"""Stands for the address of the first host, which the user fills in."""


def text(job: Job) -> str:
    """What to type, host by host."""
    if job.num_nodes == 1:
        return f"{job.machine_command}\n"
    lines = [
        f"# One run on {job.num_nodes} hosts with {job.num_processes} processes each. The folder of the run, the",
        "# recipe and the data are at the same place on all of them. Replace FIRST_HOST by the first host's address.",
    ]
    for node in range(job.num_nodes):
        lines += [f"# host {node}", _command(job, is_host=node == 0)]
    return "\n".join(lines) + "\n"


def _command(job: Job, *, is_host: bool) -> str:
    return shlex.join(
        [
            "torchrun",
            f"--nnodes={job.num_nodes}",
            f"--nproc-per-node={job.num_processes}",
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={FIRST_HOST}:{PORT}",
            f"--rdzv-id={job.name}",
            f"--rdzv-conf=is_host={str(is_host).lower()}",
            "-m",
            "tunesmith",
            *job.train_arguments,
        ]
    )
