"""What each engine is told, and the errors of what cannot be told."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tunesmith.errors import RunError
from tunesmith.launch import kubernetes, ray, skypilot, slurm, torchrun
from tunesmith.launch.engines import ENGINES, engine_of
from tunesmith.launch.job import Job


def job(**changes: Any) -> Job:
    values: dict[str, Any] = {"recipe": Path("my recipe.yaml"), "out": Path("runs/My shows"), "num_nodes": 2}
    return Job(**(values | {"num_processes": 4, "overrides": ("train.epochs=2",)} | changes))


TRAIN = "train 'my recipe.yaml' --out 'runs/My shows' --set train.epochs=2"


def test_torchrun_has_a_line_for_each_host_and_one_keeps_the_store() -> None:
    lines = [line for line in torchrun.text(job()).splitlines() if line.startswith("torchrun")]
    assert [line.endswith(f"-m tunesmith {TRAIN}") for line in lines] == [True, True]
    assert ["is_host=true" in line for line in lines] == [True, False]
    assert torchrun.text(job(num_nodes=1)) == f"tunesmith {TRAIN} --procs 4\n"


def test_slurm_saves_before_the_wall_time_and_queues_again() -> None:
    text = slurm.text(job(wall_time="12:00:00", gpu="h100", partition="long"))
    assert text.startswith("#!/bin/bash\n")
    for line in ("--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=h100:4", "--time=12:00:00", "--partition=long"):
        assert f"#SBATCH {line}\n" in text
    assert "--signal=B:USR1@180" in text
    assert "#SBATCH --requeue" in text
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


@pytest.mark.parametrize(("code", "requeued"), [(75, True), (0, False), (2, False)])
def test_the_sbatch_file_passes_on_the_stop_and_the_exit_code(tmp_path: Path, code: int, requeued: bool) -> None:
    """srun and scontrol are played; the shell is real."""
    (tmp_path / "runs" / "x").mkdir(parents=True)
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    srun = f"#!/bin/bash\nkill -USR1 $PPID\nuntil [ -e runs/x/stop ]; do :; done\nexit {code}\n"
    for name, body in {"srun": srun, "scontrol": '#!/bin/bash\necho "$@" >> scontrol.log\n'}.items():
        (bin_dir / name).write_text(body)
        (bin_dir / name).chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", slurm.text(job(out=Path("runs/x")))],
        cwd=tmp_path,
        env={"PATH": f"{bin_dir}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]"},
        check=False,
        timeout=60,
    )
    assert done.returncode == code
    assert ("requeue 7" in (tmp_path / "scontrol.log").read_text()) == requeued


def manifests(**changes: Any) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(kubernetes.text(job(image="here/tunesmith:1", volume="work", **changes))))


def test_kubernetes_makes_a_stopped_pod_again_and_fails_on_a_mistake() -> None:
    service, made = manifests(gpu="NVIDIA-H100-80GB-HBM3", wall_time="1-02:00:00")
    assert service["metadata"]["name"] == made["metadata"]["name"] == "tunesmith-my-shows"
    spec = made["spec"]
    assert (spec["completions"], spec["parallelism"], spec["activeDeadlineSeconds"]) == (2, 2, 26 * 3600)
    actions = {tuple(rule["onExitCodes"]["values"]): rule["action"] for rule in spec["podFailurePolicy"]["rules"][1:]}
    assert actions == {(75,): "Ignore", (2,): "FailJob"}
    container = spec["template"]["spec"]["containers"][0]
    assert container["command"][:3] == ["tunesmith", "train", "my recipe.yaml"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 4}
    assert {entry["name"] for entry in container["env"]} >= {"PET_NNODES", "PET_NODE_RANK", "PET_MASTER_ADDR"}


def test_kubernetes_manifests_are_valid() -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed (dev-all)")
    for manifest in manifests(gpu="NVIDIA-H100-80GB-HBM3", wall_time="12:00:00"):
        validate.validate(manifest, "1.31", strict=True)
    manifest["spec"]["paralelism"] = 2
    with pytest.raises(validate.ValidationError):
        validate.validate(manifest, "1.31", strict=True)


def test_kubernetes_says_all_that_is_missing() -> None:
    with pytest.raises(RunError, match="--image and --volume missing"):
        kubernetes.text(job())


def test_skypilot_keeps_the_run_in_the_bucket() -> None:
    task = yaml.safe_load(skypilot.text(job(gpu="H100", spot=True, volume="s3://mine")))
    assert task["resources"]["accelerators"] == {"H100": 4}
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [75]
    assert task["file_mounts"] == {"/tunesmith-runs": {"source": "s3://mine", "mode": "MOUNT"}}
    assert "--out '/tunesmith-runs/My shows'" in task["run"]
    assert "PET_NODE_RANK=$SKYPILOT_NODE_RANK" in task["run"]


def test_the_python_for_ray_makes_the_same_job() -> None:
    text = ray.text(job(gpu="H100")).replace("run(", "made = (", 1).replace("import run", "import run as _", 1)
    scope: dict[str, Any] = {"Path": Path}
    exec(text, scope)
    assert scope["made"] == job(gpu="H100")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_nodes": 0}, "--nodes 0: expected at least 1"),
        ({"num_processes": -1}, "--procs -1: expected at least 1"),
        ({"wall_time": "tomorrow"}, "--time tomorrow: expected hours:minutes:seconds"),
    ],
)
def test_what_no_engine_can_start_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError, match=message):
        job(**changes)


def test_an_unknown_engine_is_told_the_known_ones() -> None:
    with pytest.raises(RunError, match="torchrun, slurm, kubernetes, ray, skypilot"):
        engine_of("mesos")


@pytest.mark.parametrize(("engine", "tool"), [("slurm", "sbatch"), ("kubernetes", "kubectl"), ("skypilot", "sky")])
def test_a_tool_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, engine: str, tool: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunError, match=f"{tool} is not on the path"):
        ENGINES[engine].start(job(), "", print)


def test_torchrun_reaches_no_other_host() -> None:
    with pytest.raises(RunError, match="reaches no other host"):
        ENGINES["torchrun"].start(job(), "", print)
