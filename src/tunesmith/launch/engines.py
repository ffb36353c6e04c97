"""The engines by name, and how what they print is started."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tunesmith.errors import RunError
from tunesmith.launch import kubernetes, ray, skypilot, slurm, torchrun
from tunesmith.launch.job import Job
from tunesmith.launch.processes import Group, run_together, tunesmith

Say = Callable[[str], None]


@dataclass(frozen=True)
class Engine:
    """`text` says a job in the engine's words; `start` starts that and returns an exit code."""

    name: str
    what: str
    text: Callable[[Job], str]
    start: Callable[[Job, str, Say], int]


def engine_of(name: str) -> Engine:
    """The engine called `name`. Raises RunError for another name, with those there are."""
    if name not in ENGINES:
        raise RunError(f"launch --engine {name}: unknown engine. Expected one of: {', '.join(ENGINES)}.")
    return ENGINES[name]


def _start_here(job: Job, _text: str, say: Say) -> int:
    if job.num_nodes > 1:
        raise RunError(
            "launch --engine torchrun: this command reaches no other host. Run what --print shows on each of them."
        )
    return run_together(tunesmith(job.train_arguments), Group.of(job.num_processes, os.environ), say)


def _sbatch(_job: Job, text: str, _say: Say) -> int:
    _check_installed("sbatch", "Run it where jobs are submitted")
    return subprocess.run(["sbatch"], input=text, text=True, check=False).returncode


def _kubectl(_job: Job, text: str, _say: Say) -> int:
    _check_installed("kubectl", "Install it and choose a cluster")
    return subprocess.run(["kubectl", "apply", "-f", "-"], input=text, text=True, check=False).returncode


def _sky(job: Job, text: str, _say: Say) -> int:
    _check_installed("sky", "Install SkyPilot in an environment of its own (pip install skypilot)")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{job.name}.yaml"
        path.write_text(text, encoding="utf-8")
        managed = ["jobs", "launch"] if job.spot else ["launch"]
        return subprocess.run(["sky", *managed, "--yes", str(path)], check=False).returncode


def _ray(job: Job, _text: str, _say: Say) -> int:
    ray.run(job)
    return 0


def _check_installed(command: str, hint: str) -> None:
    if shutil.which(command) is None:
        raise RunError(f"launch: {command} is not on the path. {hint}, or print the file with --print.")


ENGINES = {
    engine.name: engine
    for engine in (
        Engine(
            "torchrun", "the processes of this machine, or the commands of several hosts", torchrun.text, _start_here
        ),
        Engine("slurm", "an sbatch file", slurm.text, _sbatch),
        Engine("kubernetes", "a Service and an Indexed Job", kubernetes.text, _kubectl),
        Engine("ray", "Ray Train, on the cluster that Ray finds", ray.text, _ray),
        Engine("skypilot", "a task on any cloud", skypilot.text, _sky),
    )
}
