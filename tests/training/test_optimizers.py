"""Optimizers, and layers in RAM, through the loop: runs that go on bit for bit, rehearsals that leave nothing."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith import Recipe
from tunesmith.fast.optimizers.rounding import RoundingAdamW
from tunesmith.pipeline import prepare_inputs
from tunesmith.plan import detect_machine, make_plan
from tunesmith.run.directory import RunDir
from tunesmith.run.observer import Silent
from tunesmith.run.recorder import Recorder
from tunesmith.run.signals import StopRequest
from tunesmith.training import Job, _loop, build_model, rehearsal
from tunesmith.training.checkpoints.checkpoint import newest_valid_checkpoint
from tunesmith.training.loop import Loop
from tunesmith.training.rehearsal import rehearse

NewLoop = Callable[..., Loop]
CASES: dict[str, dict[str, Any]] = {
    "adamw8bit": {"optimizer": "adamw8bit"},
    "adafactor": {"optimizer": "adafactor"},
    "muon": {"optimizer": "muon"},
    "adafactor, bfloat16": {"optimizer": "adafactor", "dtype": "bfloat16", "precision": "bf16"},
    "muon, bfloat16": {"optimizer": "muon", "dtype": "bfloat16", "precision": "bf16"},
    "adafactor in backward": {
        "optimizer": "adafactor", "dtype": "bfloat16", "precision": "bf16", "update_in_backward": True,
    },
    "muon in backward": {"optimizer": "muon", "dtype": "bfloat16", "precision": "bf16", "update_in_backward": True},
    "adafactor, lora": {"optimizer": "adafactor", "method": "lora"},
    "muon, lora": {"optimizer": "muon", "method": "lora"},
    "layers in RAM": {"method": "lora", "offload": "layers", "gradient_checkpointing": True},
    "layers in RAM, qlora": {"method": "qlora", "offload": "layers", "gradient_checkpointing": True},
}  # fmt: skip


@pytest.fixture(scope="module")
def new_loop(tiny_llama: Path, shows_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> NewLoop:
    recipe = Recipe(
        model={"name": str(tiny_llama)},
        data={"path": str(shows_csv), "text": "description", "max_rows": 60, "eval_fraction": 0},
        train={"tokens_per_step": 400, "max_length": 64, "learning_rate": 5e-3, "max_steps": 4},
        save={"every": 2},
    )
    inputs = prepare_inputs(recipe, lambda *doing: None, small=False)
    decided = make_plan(recipe, inputs.data, detect_machine(), source=inputs.source)

    def make(case: str, run_dir: RunDir | None = None, **plan: Any) -> Loop:
        changes = {"precision": "fp32", "cuda_graphs": False, **CASES[case], **plan}
        needs = "adamw8bit" in changes.values() or "qlora" in changes.values()
        if needs and importlib.util.find_spec("bitsandbytes") is None:
            pytest.skip("bitsandbytes is not installed: pip install 'tunesmith[qlora]'")
        if "method" in changes:
            changes["lora"] = recipe.lora
        run_dir = run_dir or RunDir.create(tmp_path_factory.mktemp("run") / "run")
        values = decided.model_copy(update=changes)
        prints = {"data": inputs.data.fingerprint, "model": "m"}
        job = Job(recipe, values, inputs.source, inputs.tokenizer, inputs.data, run_dir, prints, None)
        return _loop(job, build_model(job), StopRequest("again"), Recorder(run_dir, values.num_steps, Silent()))

    return make


def trained(loop: Loop) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in loop.model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_goes_on_ends_with_the_same_bits(case: str, new_loop: NewLoop) -> None:
    whole = new_loop(case)
    before = trained(whole)
    whole.run()
    after = trained(whole)
    assert all(not torch.equal(after[name], before[name]) for name in after if name.endswith("weight"))
    assert all(bool(torch.isfinite(weight).all()) for weight in after.values())
    cut = new_loop(case, num_steps=2)
    cut.run()
    checkpoint, _ = newest_valid_checkpoint(cut.saves.run_dir.checkpoints)
    assert checkpoint is not None
    resumed = new_loop(case, cut.saves.run_dir)
    resumed.saves.restore(resumed, checkpoint)
    resumed.run()
    again = trained(resumed)
    assert all(torch.equal(weight, again[name]) for name, weight in after.items())


@pytest.mark.parametrize("optimizer", ["adafactor", "muon"])
def test_a_rehearsal_leaves_no_trace(optimizer: str, new_loop: NewLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "MAX_SHARE", 1.0)
    loop = new_loop(optimizer)
    before = trained(loop)
    assert rehearse(loop)
    assert all(torch.equal(weight, before[name]) for name, weight in trained(loop).items())
    assert isinstance(loop.optimizer, RoundingAdamW)
    held = [tensor for state in loop.optimizer.state.values() for tensor in state.values()]
    assert not any(bool(tensor.any()) for tensor in held)
    assert {group["step"] for group in loop.optimizer.param_groups} == {0}


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_layers_in_ram_learn_what_layers_on_the_device_do(method: str, new_loop: NewLoop) -> None:
    case = "layers in RAM" if method == "lora" else "layers in RAM, qlora"
    streamed, resident = new_loop(case), new_loop(case, offload="none")
    for loop in (streamed, resident):
        loop.run()
    assert streamed.counts.loss_sum == resident.counts.loss_sum
    after = trained(resident)
    assert all(torch.equal(weight, after[name]) for name, weight in trained(streamed).items())
