"""DeepSpeed's ZeRO takes tunesmith's model and batches, and comes to the losses of the run."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith import Recipe

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("deepspeed") is None,
        reason="DeepSpeed is not installed: DS_BUILD_OPS=0 pip install --no-build-isolation deepspeed",
    ),
]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def ddp(tiny_llama: Path, shows_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes with copies of the weights."""
    folder = tmp_path_factory.mktemp("zero")
    recipe = Recipe(
        model={"name": str(tiny_llama)},
        data={"path": str(shows_csv), "text": "description", "max_rows": 60, "eval_fraction": 0.2},
        train={"tokens_per_step": 600, "max_steps": 4, "learning_rate": 5e-3, "micro_batch_tokens": 200},
    )
    (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    command = [sys.executable, "-m", "tunesmith", "train", str(folder / "recipe.yaml"), "--procs", "2"]
    subprocess.run([*command, "--out", str(folder / "run")], check=True, capture_output=True, env=ENVIRONMENT)
    return folder / "run"


@pytest.mark.parametrize("stage", [2, 3])
def test_zero_comes_to_the_losses_of_the_run(ddp: Path, benchmarks: Path, stage: int) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += [str(benchmarks / "zero.py"), str(ddp), "--stage", str(stage)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(rf"^step .* ZeRO-{stage} ", done.stdout, re.MULTILINE)) == 4
    difference = re.search(r"largest difference (\S+) over 2 processes", done.stdout)
    assert difference is not None
    assert float(difference[1]) < 2e-4
