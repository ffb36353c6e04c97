"""The largest batch of the run, tried before step 1 and rolled back bit for bit; and real steps, timed.

A run that cannot hold its longest batch should say so after seconds, not at step 1,935. The rehearsal runs forward,
backward, the optimizer with a learning rate of 0 (which changes no weight and creates all of its state), and takes and
frees the disk room of one checkpoint. The score of the base model, which follows, is the rehearsal of evaluation.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from tunesmith.data import TokenizedDocuments
from tunesmith.data.tokens.steps import Indices
from tunesmith.disk import NO_ROOM
from tunesmith.errors import RunError
from tunesmith.plan import Measured, measure_steps
from tunesmith.training.checkpoints.checkpoint import check_room
from tunesmith.training.checkpoints.state import rng_state, set_rng_state
from tunesmith.training.loop import Loop
from tunesmith.units import format_bytes

MAX_SHARE = 0.05
STEPS_TIMED = 5
SECONDS_TIMED = 1.0
"""Of real steps before step 1 on a GPU, whose host no forecast knows."""
SHARE_TIMED = 0.02
"""Share of the run's steps that these may be, with those that warm up."""
WARM_UP = 2
BATCHES_SCORED = 4


def rehearse(loop: Loop) -> bool:
    """Try the worst case of the run; afterwards weights, optimizer and random numbers are as before.

    Returns False when skipped because it would take more than 5% of the run. An out-of-memory error shrinks the
    micro-batch, as in training. Raises TrainingError when a document does not fit alone, RunError without disk room.
    """
    rehearse_disk(loop.saves.run_dir.path, loop.saves.num_bytes(loop.model))
    if 1 / loop.plan.num_steps > MAX_SHARE:
        return False
    with _rolled_back(loop):
        _still_step(loop, loop.batches.worst())
    return True


def time_steps(loop: Loop) -> list[Measured]:
    """Time real optimizer steps, whole ones and half ones in turns, and an evaluation, without changing a weight.

    Where steps are recorded they are timed as replays, and whole ones only: parts of them would not be.
    """
    batches = loop.batches
    spread = batches.steps[:: max(1, len(batches.steps) // STEPS_TIMED)][:STEPS_TIMED]
    recorded = loop.graphs is not None
    steps = spread if recorded else [part for step in spread for part in (step[: max(1, len(step) // 2)], step)]
    with _rolled_back(loop):
        loop.record_steps()
        measured = measure_steps(
            lambda number: _still_step(loop, steps[number]), [batches.num_fed(step) for step in steps]
        )
    return [*measured, *_time_evaluation(loop)]


def time_usual_steps(loop: Loop) -> list[Measured]:
    """The usual step of the run, timed over about a second without a wait between, without changing a weight.

    Nothing where that would be more than 2% of the run.
    """
    batches = loop.batches
    afford = int(SHARE_TIMED * loop.plan.num_steps) - WARM_UP
    if afford < 2:
        return []
    mean = batches.fed_before[-1] / len(batches.steps)
    usual = min(batches.steps, key=lambda step: abs(batches.num_fed(step) - mean))
    with _rolled_back(loop):
        loop.record_steps()
        seconds = [_timed(loop, usual, 1) for _ in range(WARM_UP)]
        number = max(1, min(afford, int(SECONDS_TIMED / max(seconds[-1], 1e-6))))
        return [Measured(batches.num_fed(usual), _timed(loop, usual, number) / number)]


def _timed(loop: Loop, documents: Indices, number: int) -> float:
    """Seconds of so many steps in a row."""
    began = time.perf_counter()
    for _ in range(number):
        _start_still_step(loop, documents)
    _wait(loop)
    return time.perf_counter() - began


def _still_step(loop: Loop, documents: Indices) -> None:
    """One optimizer step that leaves every weight as it is."""
    _start_still_step(loop, documents)
    _wait(loop)


def _start_still_step(loop: Loop, documents: Indices) -> None:
    for group in loop.optimizer.param_groups:  # first: weights may move while backward runs
        group["lr"] = 0.0
    loop.forward_backward(documents)
    loop.update()


@contextlib.contextmanager
def _rolled_back(loop: Loop) -> Iterator[None]:
    """What happens inside leaves random numbers, the optimizer and the loss's scale as they were before any step."""
    random_state, scale = rng_state(), loop.scaler.state_dict()
    try:
        yield
    finally:
        loop.optimizer.zero_grad()
        loop.forget_norm()
        getattr(loop.optimizer, "begin", loop.optimizer.state.clear)()
        loop.scaler.load_state_dict(scale)
        set_rng_state(random_state)


def _time_evaluation(loop: Loop) -> list[Measured]:
    """Time the scoring of documents from all over the held-out ones, after a pass that warms up."""
    documents = loop.held_out.documents
    num_fed = int(documents.lengths.sum()) - len(documents)
    stride = max(1, num_fed // (BATCHES_SCORED * loop.held_out.max_tokens))
    chosen = [documents[number] for number in range(0, len(documents), stride)]
    sample = TokenizedDocuments.from_lists([(ids.tolist(), supervised.tolist()) for ids, supervised in chosen])
    if sample.num_targets == 0:
        return []
    seconds = 0.0
    for _ in range(2):
        began = time.perf_counter()
        loop.held_out.score(sample)
        _wait(loop)
        seconds = time.perf_counter() - began
    return [Measured(int(sample.lengths.sum()) - len(sample), seconds, "evaluation")]


def _wait(loop: Loop) -> None:
    if loop.team.device.type == "cuda":
        torch.cuda.synchronize()


def rehearse_disk(folder: Path, num_bytes: int) -> None:
    """Take the room of one checkpoint and give it back: a quota or a full disk shows now. Raises RunError then."""
    check_room(folder, num_bytes)
    if not hasattr(os, "posix_fallocate"):
        return
    path = folder / f".room.{os.getpid()}.tmp"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, num_bytes)
    except OSError as error:
        if error.errno not in NO_ROOM:  # a file system that cannot do this; a save says it when room runs out
            return
        raise RunError(
            f"{folder}: a checkpoint needs {format_bytes(num_bytes)}, which the disk does not give ({error.strerror}). "
            "Free room or choose another --out."
        ) from None
    finally:
        os.close(descriptor)
        path.unlink()
