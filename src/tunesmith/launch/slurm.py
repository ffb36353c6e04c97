"""SLURM: an sbatch file that saves before its time is over and queues itself again until the run is done.

srun starts the processes itself: torchrun, in between, would keep the exit code 75 and the signals to itself.
"""

from __future__ import annotations

import shlex

from tunesmith.errors import Stopped
from tunesmith.launch.job import Job
from tunesmith.run.directory import STOP

SAVE_SECONDS = 180
"""How long before the wall time the run is asked to stop."""


def text(job: Job) -> str:
    """The file for sbatch."""
    total = job.num_nodes * job.num_processes
    head = [
        "#!/bin/bash",
        f"#SBATCH --job-name={job.name}",
        f"#SBATCH --nodes={job.num_nodes}",
        f"#SBATCH --ntasks-per-node={job.num_processes}",
        *([f"#SBATCH --partition={job.partition}"] if job.partition else []),
        *([f"#SBATCH --gpus-per-node={job.gpu}:{job.num_processes}"] if job.gpu else []),
        *([f"#SBATCH --time={job.wall_time}"] if job.wall_time else []),
        f"#SBATCH --signal=B:USR1@{SAVE_SECONDS}",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        f"#SBATCH --output={job.name}-%j.log",
    ]
    worker = (
        "export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID "
        f"WORLD_SIZE=$SLURM_NTASKS LOCAL_WORLD_SIZE={job.num_processes}; exec {job.train_command}"
    )
    body = [
        f"# {total} processes of one run. {SAVE_SECONDS} s before the wall time it stops, saves, and is queued again.",
        'first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        """export MASTER_ADDR=$(scontrol show node "$first" | sed -n 's/.*NodeAddr=\\([^ ]*\\).*/\\1/p')""",
        "export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))",
        "",
        f"srun --kill-on-bad-exit=0 bash -c {shlex.quote(worker)} &",
        "run=$!",
        f"trap {shlex.quote(f'touch {shlex.quote(str(job.out / STOP))}')} USR1",
        'while kill -0 "$run" 2>/dev/null; do wait "$run"; done  # the trap ends a wait before its time',
        'wait "$run"; code=$?',
        f'[ "$code" -eq {Stopped.exit_code} ] && scontrol requeue "$SLURM_JOB_ID"',
        'exit "$code"',
    ]
    return "\n".join([*head, "", *body]) + "\n"
