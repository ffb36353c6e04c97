"""Optimizers, and layers in RAM, through the loop: runs that go on bit for bit, rehearsals that leave nothing."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith.fast.optimizers.rounding import RoundingAdamW
from tunesmith.run.directory import RunDir
from tunesmith.training import rehearsal
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
def new_loop(loops_of: Callable[[Path], NewLoop], tiny_llama: Path) -> NewLoop:
    """new_loop(case, run_dir=None, **values of the plan)"""
    make = loops_of(tiny_llama)

    def of(case: str, run_dir: RunDir | None = None, **plan: Any) -> Loop:
        changes = {"precision": "fp32", **CASES[case], **plan}
        needs = "adamw8bit" in changes.values() or "qlora" in changes.values()
        if needs and importlib.util.find_spec("bitsandbytes") is None:
            pytest.skip("bitsandbytes is not installed: pip install 'tunesmith[qlora]'")
        return make(run_dir, **changes)

    return of


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
