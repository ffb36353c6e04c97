"""Runs whose weights move while backward runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith import Recipe
from tunesmith.errors import TrainingError
from tunesmith.pipeline import prepare_inputs
from tunesmith.plan import detect_machine, make_plan
from tunesmith.run.directory import RunDir
from tunesmith.run.observer import Silent
from tunesmith.run.recorder import Recorder
from tunesmith.run.signals import StopRequest
from tunesmith.training import Job, _loop, build_model, rehearsal
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
    "cuda_graphs": False,
    "update_in_backward": True,
}


@pytest.fixture(scope="module")
def new_loop(tiny_gpt_neo: Path, shows_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> NewLoop:
    recipe = Recipe(
        model={"name": str(tiny_gpt_neo)},
        data={"path": str(shows_csv), "text": "description", "max_rows": 60, "eval_fraction": 0},
        train={"tokens_per_step": 400, "max_length": 64, "learning_rate": 5e-3, "max_steps": 4},
        save={"every": 2},
    )
    inputs = prepare_inputs(recipe, lambda *doing: None, small=False)
    decided = make_plan(recipe, inputs.data, detect_machine(), source=inputs.source)

    def make(run_dir: RunDir | None = None, **plan: Any) -> Loop:
        run_dir = run_dir or RunDir.create(tmp_path_factory.mktemp("run") / "run")
        values = decided.model_copy(update={**LEAN, **plan})
        prints = {"data": inputs.data.fingerprint, "model": "m"}
        job = Job(recipe, values, inputs.source, inputs.tokenizer, inputs.data, run_dir, prints, None)
        return _loop(job, build_model(job), StopRequest("again"), Recorder(run_dir, values.num_steps, Silent()))

    return make


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
