"""Runs whose weights move while backward runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith.errors import TrainingError
from tunesmith.training import rehearsal
from tunesmith.training.checkpoints.checkpoint import newest_valid_checkpoint
from tunesmith.training.loop import Loop
from tunesmith.training.rehearsal import rehearse, time_usual_steps
from tunesmith.training.steps.batches import Batches

NewLoop = Callable[..., Loop]
LEAN: dict[str, Any] = {
    "device": "cpu",
    "precision": "bf16",
    "dtype": "bfloat16",
    "optimizer": "adamw",
    "update_in_backward": True,
}


@pytest.fixture(scope="module")
def new_loop(loops_of: Callable[[Path], NewLoop], tiny_gpt_neo: Path) -> NewLoop:
    make = loops_of(tiny_gpt_neo)
    return lambda run_dir=None, **plan: make(run_dir, **{**LEAN, **plan})


def weights(loop: Loop) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in loop.model.named_parameters()}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_it_learns_as_a_step_that_holds_its_gradients(new_loop: NewLoop) -> None:
    lean, plain = new_loop(), new_loop(update_in_backward=False)
    lean.run()
    plain.run()
    assert lean.counts.loss_sum == pytest.approx(plain.counts.loss_sum, rel=1e-3)
    assert all(parameter.grad is None for parameter in lean.model.parameters())


def test_a_run_that_goes_on_ends_with_the_same_bits(new_loop: NewLoop) -> None:
    whole = new_loop()
    whole.run()
    cut = new_loop(num_steps=2)
    cut.run()
    checkpoint, _ = newest_valid_checkpoint(cut.saves.run_dir.checkpoints)
    assert checkpoint is not None
    resumed = new_loop(cut.saves.run_dir)
    resumed.saves.restore(resumed, checkpoint)
    resumed.run()
    assert_same(weights(resumed), weights(whole))


def test_a_rehearsal_moves_no_weight(new_loop: NewLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "MAX_SHARE", 1.0)
    monkeypatch.setattr(rehearsal, "SHARE_TIMED", 1.0)
    loop = new_loop()
    before = weights(loop)
    assert rehearse(loop)
    (measured,) = time_usual_steps(loop)
    assert measured.num_tokens > 300
    assert_same(weights(loop), before)
    assert [group["step"] for group in loop.optimizer.param_groups] == [0, 0]


def test_memory_that_runs_out_ends_the_run_at_the_last_checkpoint(
    new_loop: NewLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = new_loop()
    flat, calls = Batches.flat, list[int]()

    def scarce(batches: Batches, part: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return flat(batches, part)

    monkeypatch.setattr(Batches, "flat", scarce)
    with pytest.raises(TrainingError, match=r"step 3.*cannot be tried again in parts.*step-0*2\."):
        loop.run()
    assert len(calls) == 3
