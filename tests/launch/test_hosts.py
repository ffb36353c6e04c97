"""The commands that `launch --engine torchrun` prints, run on two hosts: network namespaces joined by a cable."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

import tunesmith
from tunesmith import Recipe
from tunesmith.api import Run
from tunesmith.launch import torchrun
from tunesmith.launch.job import Job

NETWORK = "10.231.7"
DEADLINE = 400


def ip(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=False)


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Two network namespaces with addresses .1 and .2, each with nothing but its end of the cable."""
    if shutil.which("ip") is None:
        pytest.skip("no `ip` (iproute2), so no network namespaces")
    names = [f"tunesmith-{os.getpid()}-{number}" for number in (1, 2)]
    made = [ip("netns", "add", name) for name in names]
    try:
        if any(one.returncode for one in made):
            pytest.skip(f"network namespaces cannot be made here: {made[0].stderr.strip() or made[1].stderr.strip()}")
        cable = ip(
            "link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1]
        )
        if cable.returncode:
            pytest.skip(f"namespaces cannot be joined here: {cable.stderr.strip()}")
        for number, name in enumerate(names, start=1):
            ip("-n", name, "addr", "add", f"{NETWORK}.{number}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            ip("netns", "del", name)


@pytest.mark.slow
def test_two_hosts_meet_and_train_as_one_process(
    hosts: list[str], tiny_llama: Path, shows_csv: Path, tmp_path: Path
) -> None:
    recipe = Recipe(
        model={"name": str(tiny_llama)},
        data={"path": str(shows_csv), "text": "description", "max_rows": 60, "eval_fraction": 0.2},
        train={"tokens_per_step": 600, "max_steps": 4, "learning_rate": 5e-3},
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    printed = torchrun.text(Job(recipe=path, out=tmp_path / "two", num_nodes=2))
    commands = [shlex.split(line) for line in printed.splitlines() if line.startswith("torchrun")]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "cable", "OMP_NUM_THREADS": "1"}
    started = []
    for number, (name, command) in enumerate(zip(hosts, commands, strict=True), start=1):
        words = [word.replace(torchrun.FIRST_HOST, f"{NETWORK}.1") for word in command[1:]]
        # both share this machine's name, by which torchrun would look for its own address
        here = [sys.executable, "-m", "torch.distributed.run", f"--local-addr={NETWORK}.{number}", *words]
        started.append(subprocess.Popen(["ip", "netns", "exec", name, *here], env=environment, stderr=subprocess.PIPE))
    said = [process.communicate(timeout=DEADLINE)[1].decode(errors="replace") for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    one = tunesmith.train(recipe, out=tmp_path / "one", console=Console(quiet=True))
    two = Run(tmp_path / "two")
    assert two.result["train_tokens"] == one.result["train_tokens"]
    for key in ("train_loss", "eval_loss"):
        assert two.result[key] == pytest.approx(one.result[key], abs=2e-5)
