"""SkyPilot: a task that finds machines on any cloud, and new ones when they are taken away."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from tunesmith.errors import Stopped
from tunesmith.launch.job import PORT, Job

RUNS = "/tunesmith-runs"
"""Where the bucket with the run is mounted; what the machine holds itself is lost with it."""

_RUN = """\
export PET_NNODES=$SKYPILOT_NUM_NODES PET_NODE_RANK=$SKYPILOT_NODE_RANK PET_MASTER_PORT={port}
export PET_MASTER_ADDR=$(echo "$SKYPILOT_NODE_IPS" | head -n 1)
{command}
"""


def text(job: Job) -> str:
    """The YAML of the task. The folder where the command runs is copied to the machines."""
    resources: dict[str, Any] = {}
    if job.gpu:
        resources["accelerators"] = {job.gpu: job.num_processes}
    if job.spot:
        resources["use_spot"] = True
        resources["job_recovery"] = {"strategy": "EAGER_NEXT_REGION", "recover_on_exit_codes": [Stopped.exit_code]}
    task: dict[str, Any] = {"name": job.name, "num_nodes": job.num_nodes, "workdir": ".", "resources": resources}
    if job.volume:
        task["file_mounts"] = {RUNS: {"source": job.volume, "mode": "MOUNT"}}
    task["setup"] = "pip install tunesmith"
    task["run"] = _RUN.format(port=PORT, command=_in_bucket(job).machine_command)
    return yaml.dump(task, Dumper=_Dumper, sort_keys=False)


def _in_bucket(job: Job) -> Job:
    return replace(job, out=Path(RUNS) / job.out.name) if job.volume else job


class _Dumper(yaml.SafeDumper):
    """Texts of several lines stand as they are."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)
