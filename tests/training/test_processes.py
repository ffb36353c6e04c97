"""Several processes train as one: the same steps, the same loss, one writer."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import tunesmith
from tunesmith import Recipe
from tunesmith.api import Run
from tunesmith.launch.processes import Group, run_together
from tunesmith.training.checkpoints.checkpoint import newest_valid_checkpoint


def losses(run: Run, key: str) -> list[float]:
    return [line[key] for line in run.dir.metrics() if key in line]


BF16 = ["--set", "model.dtype=bfloat16", "--set", "train.precision=bf16"]
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]


@pytest.mark.parametrize(
    ("method", "launcher", "more"),
    [
        ("full", [], ["--procs", "2"]),
        ("lora", TORCHRUN, []),
        ("full", [], ["--procs", "2", "--set", "train.sharding=full"]),
        ("lora", [], ["--procs", "2", "--set", "train.sharding=full"]),
        pytest.param("full", [], ["--procs", "2", "--set", "train.sharding=full", *BF16], marks=pytest.mark.slow),
        pytest.param("lora", [], ["--procs", "2", "--set", "train.sharding=full", *BF16], marks=pytest.mark.slow),
        pytest.param("full", [], ["--procs", "4"], marks=pytest.mark.slow),
        pytest.param("lora", [], ["--procs", "4", "--set", "train.sharding=full"], marks=pytest.mark.slow),
    ],
    ids=[
        "full",
        "lora-torchrun",
        "full-sharded",
        "lora-sharded",
        "full-sharded-bf16",
        "lora-sharded-bf16",
        "four",
        "four-sharded",
    ],
)
def test_several_processes_equal_one(
    tiny_llama: Path, shows_csv: Path, tmp_path: Path, method: str, launcher: list[str], more: list[str]
) -> None:
    recipe = Recipe(
        model={"name": str(tiny_llama)},
        data={"path": str(shows_csv), "text": "description", "max_rows": 60, "eval_fraction": 0.2},
        train={"method": method, "tokens_per_step": 600, "max_steps": 4, "learning_rate": 5e-3},
        save={"every": 2},
    )
    close = 2e-5
    if more[-1:] == BF16[-1:]:
        recipe, close = recipe.with_values(**{"model.dtype": "bfloat16", "train.precision": "bf16"}), 2e-3
    one = tunesmith.train(recipe, out=tmp_path / "one", console=Console(quiet=True))
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    command = [sys.executable, *launcher, "-m", "tunesmith", "train", str(tmp_path / "recipe.yaml")]
    command += ["--out", str(tmp_path / "two"), *more]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    two = Run(tmp_path / "two")
    assert losses(two, "loss") == pytest.approx(losses(one, "loss"), abs=close)
    assert losses(two, "eval_loss") == pytest.approx(losses(one, "eval_loss"), abs=close)
    assert two.result["eval_token_accuracy"] == pytest.approx(one.result["eval_token_accuracy"], abs=close)
    assert two.result["train_tokens"] == one.result["train_tokens"]
    assert (two.path / "report.html").is_file()
    assert not (two.path / "lock").exists()


def test_a_mistake_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("train: {learning_rte: 1}\n", encoding="utf-8")
    command = [sys.executable, "-m", "tunesmith", "train", str(tmp_path / "recipe.yaml"), "--procs", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("learning_rte") == 1


@pytest.fixture
def long_run(tiny_llama: Path, shows_csv: Path, tmp_path: Path) -> Callable[[str], list[str]]:
    """long_run(name): the arguments of a run of 150 steps, saved at every fifth, in a folder of that name."""
    recipe = Recipe(
        model={"name": str(tiny_llama)},
        data={"path": str(shows_csv), "text": "description", "max_rows": 60, "eval_fraction": 0.2},
        train={"tokens_per_step": 100, "epochs": 30, "max_steps": 150, "learning_rate": 5e-3},
        save={"every": 5},
    )
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    return lambda name: ["train", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / name)]


def run(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "tunesmith", *arguments, "--procs", "2"]
    subprocess.run(command, check=True, capture_output=True)


def newest(path: Path) -> int:
    """Step of the newest checkpoint."""
    return max((int(folder.name[5:]) for folder in path.glob("checkpoints/step-*")), default=0)


def disturbed(
    arguments: list[str], path: Path, step: int, rank: int, number: signal.Signals, stopped_seconds: float = 60.0
) -> tuple[int, str]:
    """Train with two processes, and send one of them a signal when the run has saved `step`: exit code, last words."""
    command = (
        "import sys; from tunesmith.launch.processes import Group, run_together, tunesmith; "
        f"sys.exit(run_together(tunesmith({arguments!r}), Group.of(2, {{}}), lambda line: print(line, "
        f"file=sys.stderr), stopped_seconds={stopped_seconds}))"
    )
    with subprocess.Popen([sys.executable, "-c", command], stderr=subprocess.PIPE, text=True) as process:
        while newest(path) < step:
            assert process.poll() is None
        psutil.Process(process.pid).children()[rank].send_signal(number)
        _, said = process.communicate(timeout=120)
    return process.returncode, said


def same_weights(*paths: Path) -> bool:
    first, second = (load_file(path / "model" / "model.safetensors") for path in paths)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "message"),
    [
        (signal.SIGKILL, "process 1 of 2 was ended by SIGKILL"),
        (signal.SIGSTOP, "process 1 of 2 is stopped (SIGSTOP, or a debugger) and the others wait for it"),
    ],
)
def test_a_lost_process_ends_the_run_and_it_goes_on_bitwise(
    long_run: Callable[[str], list[str]], tmp_path: Path, number: signal.Signals, message: str
) -> None:
    run(long_run("undisturbed"))
    code, said = disturbed(long_run("lost"), tmp_path / "lost", 10, 1, number, stopped_seconds=1.0)
    assert code not in (0, 75)
    assert message in said
    assert "This is a bug" not in said
    run(long_run("lost"))
    assert same_weights(tmp_path / "undisturbed", tmp_path / "lost")


@pytest.mark.slow
def test_ten_processes_are_killed_at_random_and_nothing_is_lost(
    long_run: Callable[[str], list[str]], tmp_path: Path
) -> None:
    run(long_run("undisturbed"))
    chance = random.Random(7)
    for _ in range(10):
        step = newest(tmp_path / "lost") + chance.choice([1, 5, 10])
        code, said = disturbed(long_run("lost"), tmp_path / "lost", step, chance.choice([0, 1]), signal.SIGKILL)
        assert code not in (0, 75)
        assert "was ended by SIGKILL" in said
    run(long_run("lost"))
    assert same_weights(tmp_path / "undisturbed", tmp_path / "lost")


@pytest.mark.slow
def test_a_process_with_another_recipe_is_told_from_the_others(
    long_run: Callable[[str], list[str]], tmp_path: Path
) -> None:
    group = Group.of(2, {})
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tunesmith", *long_run("run"), "--set", f"train.learning_rate={rate}"],
            env={**os.environ, **group.environment(rank, 2)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, rate in enumerate((1e-3, 2e-3))
    ]
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    assert "process 1 of 2 was started for something else than the first: train.learning_rate is 0.002" in said[0]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_sharded_run_goes_on_with_any_number_of_processes(
    tiny_llama: Path, shows_csv: Path, tmp_path: Path, method: str
) -> None:
    recipe = Recipe(
        model={"name": str(tiny_llama)},
        data={"path": str(shows_csv), "text": "description", "max_rows": 60, "eval_fraction": 0.2},
        train={"method": method, "tokens_per_step": 400, "epochs": 4, "max_steps": 6, "learning_rate": 5e-3}
        | {"schedule": "constant", "warmup_fraction": 0.0},
        save={"every": 2},
    )
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    one = tunesmith.train(recipe, out=tmp_path / "one", console=Console(quiet=True))
    sharded = ["--set", "train.sharding=full"]
    for steps, more in ((2, ["--procs", "2", *sharded]), (4, []), (6, ["--procs", "4", *sharded])):
        command = [sys.executable, "-m", "tunesmith", "train", str(tmp_path / "recipe.yaml")]
        command += ["--out", str(tmp_path / "many"), "--force", "--set", f"train.max_steps={steps}", *more]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    many = Run(tmp_path / "many")
    assert losses(many, "loss") == pytest.approx(losses(one, "loss"), abs=2e-3)
    assert {path.name for path in many.path.glob("checkpoints/step-4/*")} >= {"model.safetensors"}
    assert len(list(many.path.glob("checkpoints/step-6/model/shard-*"))) == 4


WRITING = """
import os, signal, sys
from tunesmith.training.checkpoints import writers
write = writers.write_shards

def killed(tensors, folder):
    if os.environ["RANK"] == {rank!r} and "step-10." in str(folder) and folder.name == "optimizer":
        os.kill(os.getpid(), signal.SIGKILL)
    write(tensors, folder)

writers.write_shards = killed
sys.argv[1:] = {arguments!r}
from tunesmith.cli import main
main()
"""


@pytest.mark.slow
def test_a_process_that_is_killed_while_all_write_leaves_the_checkpoint_before(
    long_run: Callable[[str], list[str]], tmp_path: Path
) -> None:
    """And with as many processes the run ends bitwise as an undisturbed one."""
    sharded = ["--set", "train.sharding=full", "--set", "train.max_steps=20", "--set", "save.keep=4"]
    run([*long_run("undisturbed"), *sharded])
    for rank in ("0", "1"):
        arguments, said = [*long_run(f"lost-{rank}"), *sharded], []
        script = WRITING.format(rank=rank, arguments=arguments)
        code = run_together([sys.executable, "-c", script], Group.of(2, {}), said.append)
        assert code not in (0, 75)
        assert f"process {rank} of 2 was ended by SIGKILL" in " ".join(said)
        found, problems = newest_valid_checkpoint(tmp_path / f"lost-{rank}" / "checkpoints")
        assert found is not None
        assert (found.step, problems) == (5, [])
        assert sum(name.startswith("optimizer/shard-") for name in found.manifest.files) == 2
        run(arguments)
        assert same_weights(tmp_path / "undisturbed", tmp_path / f"lost-{rank}")
