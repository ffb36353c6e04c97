"""Ray Train: Ray places the processes and starts them again when one is lost; the run goes on from its newest
checkpoint, which lies in the run directory on a folder that all machines see.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tunesmith.errors import RunError
from tunesmith.launch.job import Job

MAX_FAILURES = 3
"""How often the processes are started again after one was lost."""
_TOLD = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def text(job: Job) -> str:
    """The Python that `run` runs, for whoever submits it to a cluster."""
    return (
        "from pathlib import Path\n\n"
        "from tunesmith.launch.job import Job\n"
        "from tunesmith.launch.ray import run\n\n"
        f"run(Job(recipe=Path({str(job.recipe)!r}), out=Path({str(job.out)!r}), num_nodes={job.num_nodes}, "
        f"num_processes={job.num_processes}, overrides={job.overrides!r}, gpu={job.gpu!r}))\n"
    )


def run(job: Job, *, cpus_per_process: float = 1.0, max_failures: int = MAX_FAILURES) -> None:
    """Train on the Ray cluster of this machine's environment, or on one of this machine alone.

    Raises RunError when Ray is not installed, or when the processes were lost more often than `max_failures`.
    """
    try:
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError:
        raise RunError("launch --engine ray: Ray is not installed. Run: pip install 'tunesmith[ray]'") from None

    ray.init(ignore_reinit_error=True, include_dashboard=False)
    out = job.out.absolute()
    needs: dict[str, float] = {"CPU": cpus_per_process}
    trainer = TorchTrainer(
        _train,
        train_loop_config={
            "recipe": str(job.recipe.absolute()),
            "out": str(out),
            "overrides": list(job.overrides),
            "folder": str(Path.cwd()),
        },
        torch_config=TorchConfig(backend="nccl" if job.gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=job.num_nodes * job.num_processes,
            use_gpu=job.gpu is not None,
            resources_per_worker=needs,
            accelerator_type=job.gpu,
        ),
        run_config=RunConfig(
            name=job.name,
            storage_path=str(out.parent / ".ray"),
            failure_config=FailureConfig(max_failures=max_failures),
        ),
    )
    try:
        trainer.fit()
    except Exception as error:  # Ray's own tree of errors differs from release to release
        raise RunError(
            f"launch --engine ray: {error}. The same command goes on from the newest checkpoint in {job.out}."
        ) from error


def _train(config: dict[str, Any]) -> None:
    """One worker. Ray has set torch.distributed's variables and made the process group, on which accelerate builds."""
    missing = [name for name in _TOLD if name not in os.environ]
    if missing:
        raise RunError(f"launch --engine ray: Ray did not set {', '.join(missing)}.")
    from tunesmith import pipeline

    os.chdir(config["folder"])  # Ray's own elsewhere; paths in a recipe are relative to where the command runs
    recipe, path = pipeline.recipe_and_path(config["recipe"], config["out"], config["overrides"])
    pipeline.train(recipe, Path(path))
