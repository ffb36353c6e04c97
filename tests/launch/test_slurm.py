"""The sbatch file on a real SLURM of two nodes on this machine: stopped before its time, queued again, done."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tunesmith import Recipe
from tunesmith.api import Run
from tunesmith.launch import slurm
from tunesmith.launch.job import Job

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("slurmctld") is None, reason="SLURM is not installed (slurmctld, slurmd, munge)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="its daemons want root"),
]
DEADLINE = 400.0


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[dict[str, str]]:
    """munged, slurmctld and two slurmd; gives the environment of those who submit."""
    home = tmp_path / "slurm"
    home.mkdir(mode=0o755)
    control, first, second = free_ports(3)
    host = socket.gethostname().partition(".")[0]
    key = home / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    lines = {
        "ClusterName": "tiny",
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "SlurmUser": "root",
        "SlurmdUser": "root",
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={home}/munge.socket",
        "CryptoType": "crypto/munge",
        "MpiDefault": "none",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "JobAcctGatherType": "jobacct_gather/none",
        "AccountingStorageType": "accounting_storage/none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core",
        "ReturnToService": "2",
        "SlurmctldPidFile": f"{home}/control.pid",
        "SlurmdPidFile": f"{home}/%n.pid",
        "StateSaveLocation": f"{home}/state",
        "SlurmdSpoolDir": f"{home}/spool.%n",
        "SlurmctldLogFile": f"{home}/control.log",
        "SlurmdLogFile": f"{home}/%n.log",
        "SlurmctldPort": str(control),
        "SlurmdParameters": "config_overrides",
    }
    nodes = [
        f"NodeName=n{number} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1 RealMemory=2000 State=UNKNOWN"
        for number, port in ((1, first), (2, second))
    ]
    nodes.append("PartitionName=main Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES")
    conf = home / "slurm.conf"
    conf.write_text("\n".join([*(f"{name}={value}" for name, value in lines.items()), *nodes]) + "\n")
    (home / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
    environment = {**os.environ, "SLURM_CONF": str(conf), "OMP_NUM_THREADS": "1"}
    munged = ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={home}/munge.socket"]
    munged += [f"--pid-file={home}/munge.pid", f"--log-file={home}/munge.log", f"--seed-file={home}/munge.seed"]
    commands = [
        munged,
        ["slurmctld", "-D", "-f", str(conf)],
        ["slurmd", "-D", "-N", "n1", "-f", str(conf)],
        ["slurmd", "-D", "-N", "n2", "-f", str(conf)],
    ]
    output = (home / "daemons.log").open("w")
    daemons = []
    try:
        for command in commands:
            daemons.append(subprocess.Popen(command, env=environment, stdout=output, stderr=output))
        yield environment
        ask(environment, "scancel", "--user=root")
        wait_until(lambda: not ask(environment, "squeue", "-h"), "the jobs did not end")
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            daemon.wait(30)
        output.close()


def ask(environment: dict[str, str], *command: str) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def wait_until(condition: object, what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def test_a_job_saves_before_its_time_and_goes_on(
    cluster: dict[str, str], tiny_llama: Path, shows_csv: Path, tmp_path: Path
) -> None:
    recipe = Recipe(
        model={"name": str(tiny_llama)},
        data={"path": str(shows_csv), "text": "description", "max_rows": 60, "eval_fraction": 0.2},
        train={"tokens_per_step": 200, "epochs": 100, "max_steps": 300, "learning_rate": 1e-3},
        save={"every": 1000},
    )
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    out = tmp_path / "run"
    text = slurm.text(Job(recipe=tmp_path / "recipe.yaml", out=out, num_nodes=2, num_processes=1))
    commands = Path(sys.executable).parent
    text = text.replace("#SBATCH --output=", f"#SBATCH --chdir={tmp_path}\n#SBATCH --output=")
    environment = {**cluster, "PATH": f"{commands}:{cluster['PATH']}"}
    wait_until(lambda: "idle" in ask(environment, "sinfo", "-h", "-o", "%T"), "the nodes did not come up")
    submitted = subprocess.run(["sbatch", "--parsable"], input=text, env=environment, capture_output=True, text=True)
    assert submitted.returncode == 0, submitted.stderr
    job = submitted.stdout.strip()
    wait_until(lambda: (out / "metrics.jsonl").is_file(), "the run did not begin")
    wait_until(lambda: len(Run(out).dir.metrics()) > 4, "the run did not go on")
    ask(environment, "scancel", "--signal=USR1", "--batch", job)  # what SLURM does three minutes before the wall time
    wait_until(lambda: any((out / "checkpoints").glob("step-*")), "the run did not stop")
    stopped = max(int(path.name.removeprefix("step-")) for path in (out / "checkpoints").glob("step-*"))
    assert stopped < 300
    begin = f"scontrol update JobId={job} StartTime=now".split()
    wait_until(lambda: "Restarts=1" in ask(environment, "scontrol", "show", "job", job), "it was not queued again")
    ask(environment, *begin)  # a job that was queued again waits for two minutes
    wait_until(lambda: (out / "result.json").is_file() and Run(out).result["stopped"] is None, "it did not end")
    assert Run(out).result["steps"] == 300
    assert f"resuming {out} from step {stopped}" in "".join(path.read_text() for path in tmp_path.glob("*.log"))
