"""The largest batch of the run, tried before step 1 and rolled back bit for bit.

A run that cannot hold its longest batch should say so after seconds, not at step 1,935. The rehearsal runs forward,
backward, the optimizer with a learning rate of 0 (which changes no weight and creates all of its state), and takes and
frees the disk room of one checkpoint. The score of the base model, which follows, is the rehearsal of evaluation.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from tunesmith.data import TokenizedDocuments
from tunesmith.disk import NO_ROOM
from tunesmith.errors import RunError
from tunesmith.evaluate import evaluate
from tunesmith.plan import Measured, measure_steps
from tunesmith.training.checkpoint import check_room
from tunesmith.training.state import rng_state, set_rng_state
from tunesmith.units import format_bytes

if TYPE_CHECKING:
    from tunesmith.training.trainer import FlatTrainer

MAX_SHARE = 0.05
STEPS_TIMED = 5
BATCHES_SCORED = 4


def rehearse(trainer: FlatTrainer) -> bool:
    """Try the worst case of the run; afterwards weights, optimizer and random numbers are as before.

    Returns False when skipped because it would take more than 5% of the run. An out-of-memory error shrinks the
    micro-batch, as in training. Raises TrainingError when a document does not fit alone, RunError without disk room.
    """
    _rehearse_disk(trainer)
    if 1 / len(trainer.steps) > MAX_SHARE:
        return False
    random_state = rng_state()
    largest = max(trainer.steps, key=lambda step: int(trainer.fed_tokens[step].sum()))
    longest = max(trainer.steps, key=lambda step: int(trainer.fed_tokens[step].max()))
    worst = np.unique(np.concatenate([largest, longest[np.argmax(trainer.fed_tokens[longest])][None]]))
    counters = (trainer.run_state.train_tokens, trainer.run_state.train_samples)
    try:
        trainer.training_step(trainer.model, worst)
        with _still_optimizer(trainer) as optimizer:
            optimizer.step()
            _wait(trainer)
    finally:
        trainer.model.zero_grad()
        trainer.run_state.train_tokens, trainer.run_state.train_samples = counters
        trainer.forget_window()
        set_rng_state(random_state)
    return True


def time_steps(trainer: FlatTrainer) -> list[Measured]:
    """Time real optimizer steps, whole ones and half ones in turns, and an evaluation, without changing a weight."""
    spread = trainer.steps[:: max(1, len(trainer.steps) // STEPS_TIMED)][:STEPS_TIMED]
    steps = [part for step in spread for part in (step[: max(1, len(step) // 2)], step)]
    with _still_optimizer(trainer) as optimizer:

        def run_step(number: int) -> None:
            trainer.training_step(trainer.model, steps[number])
            torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), trainer.recipe.train.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            _wait(trainer)

        measured = measure_steps(run_step, [int(trainer.fed_tokens[step].sum()) for step in steps])
    return [*measured, *_time_evaluation(trainer)]


def _time_evaluation(trainer: FlatTrainer) -> list[Measured]:
    """Time the scoring of documents from all over the held-out ones, after a pass that warms up."""
    documents = trainer.eval_documents
    num_fed = int(documents.lengths.sum()) - len(documents)
    stride = max(1, num_fed // (BATCHES_SCORED * trainer.eval_tokens))
    chosen = [documents[number] for number in range(0, len(documents), stride)]
    sample = TokenizedDocuments.from_lists([(ids.tolist(), supervised.tolist()) for ids, supervised in chosen])
    if sample.num_targets == 0:
        return []
    for _ in range(2):
        began = time.perf_counter()
        with trainer.compute_loss_context_manager():
            evaluate(trainer.model, sample, max_tokens=trainer.eval_tokens)
        _wait(trainer)
        seconds = time.perf_counter() - began
    return [Measured(int(sample.lengths.sum()) - len(sample), seconds, "evaluation")]


@contextlib.contextmanager
def _still_optimizer(trainer: FlatTrainer) -> Iterator[torch.optim.Optimizer]:
    """The trainer's optimizer with a learning rate of 0, which leaves every weight as it is; its state is undone."""
    optimizer = trainer.create_optimizer()
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    try:
        yield optimizer
    finally:
        getattr(optimizer, "begin", optimizer.state.clear)()
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


def _wait(trainer: FlatTrainer) -> None:
    if trainer.args.device.type == "cuda":
        torch.cuda.synchronize()


def _rehearse_disk(trainer: FlatTrainer) -> None:
    """Take the room of one checkpoint and give it back: a quota or a full disk shows now."""
    folder = trainer.run_dir.path
    needed = trainer.checkpoint_bytes()
    check_room(folder, needed)
    if not hasattr(os, "posix_fallocate"):
        return
    path = folder / f".room.{os.getpid()}.tmp"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, needed)
    except OSError as error:
        if error.errno not in NO_ROOM:  # a file system that cannot do this; a save says it when room runs out
            return
        raise RunError(
            f"{folder}: a checkpoint needs {format_bytes(needed)}, which the disk does not give ({error.strerror}). "
            "Free room or choose another --out."
        ) from None
    finally:
        os.close(descriptor)
        path.unlink()
