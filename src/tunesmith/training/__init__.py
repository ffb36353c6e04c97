"""Training: the only path from a Plan to a tuned model, whatever the method, the device or the number of processes.

loop.py         the loop: one turn is one optimizer step, retried after out of memory
steps/          what a step is made of; first_batch.py: the first batch in words
clock.py        seconds, and what is due
recovery.py     what is survived
checkpoints/    what a run keeps, and how it goes on
processes/      those that train together
held_out.py     scores of the held-out documents; samples.py: texts written beside them
rehearsal.py    the largest batch tried before step 1, then rolled back
rate_range.py   the loss while the learning rate grows
base.py         what several runs of one process share
trackers.py     who else is told
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from tunesmith.errors import Stopped
from tunesmith.recipe import Recipe
from tunesmith.run.artefacts import EvalScores, Plan, Result
from tunesmith.run.directory import RunDir
from tunesmith.run.observer import Observer
from tunesmith.run.recorder import Recorder
from tunesmith.run.signals import StopRequest

if TYPE_CHECKING:
    from tunesmith.data import Data
    from tunesmith.models.find import ModelSource
    from tunesmith.models.tokenizer import TextTokenizer
    from tunesmith.plan import Measured
    from tunesmith.training.base import Base
    from tunesmith.training.checkpoints.checkpoint import Checkpoint
    from tunesmith.training.loop import Loop
    from tunesmith.training.processes.distributed import Team
    from tunesmith.training.samples import Samples


@dataclass(frozen=True)
class Job:
    """Everything that training needs, decided before it starts."""

    recipe: Recipe
    """As it was asked; checkpoints keep it. What is decided stands in the plan."""
    plan: Plan
    source: ModelSource
    tokenizer: TextTokenizer
    data: Data
    run_dir: RunDir
    fingerprints: dict[str, str]
    """Of data and model; kept in every checkpoint."""
    checkpoint: Checkpoint | None
    """Where the run goes on; None at its beginning."""
    base: Base | None = None
    """What other runs of this process share with it."""


def train(job: Job, stop: StopRequest, observer: Observer) -> Result:
    """Train from the beginning, or from `job.checkpoint`, to the end. Writes model/ and result.json.

    Raises Stopped when a signal ended the run early (a checkpoint was saved), TrainingError when it cannot go on.
    """
    from tunesmith.training.checkpoints.mirror import Mirror
    from tunesmith.training.checkpoints.saving import save_tuned
    from tunesmith.training.first_batch import describe_first_batch
    from tunesmith.training.processes.together import agree_on

    with stop.at_once():
        job = agree_on(job)
    checkpoint, run_dir = job.checkpoint, job.run_dir
    with ExitStack() as at_end, Recorder(run_dir, job.plan.num_steps, observer) as recorder:
        with stop.at_once():
            recorder.doing("loading the model")
            model = build_model(job, recorder.note)
            loop = _loop(job, model, stop, recorder)
        _introduce(job, model, recorder)
        if job.recipe.save.mirror is not None and loop.team.is_first:
            mirror = Mirror(job.recipe.save.mirror, recorder.note)
            loop.saves = replace(loop.saves, mirror=mirror)
            at_end.callback(mirror.close)
        loop.trackers.start(job.recipe.model_dump(mode="json"), checkpoint.step if checkpoint else 0)
        at_end.callback(loop.trackers.end)
        run_dir.keep_lines_until(checkpoint.step if checkpoint else -1)
        with loop.on_stream():
            if checkpoint is None:
                recorder.note(describe_first_batch(loop.batches, job.tokenizer))
                _begin(job, loop)
            else:
                recorder.doing("reading the checkpoint")
                loop.saves.restore(loop, checkpoint)
            recorder.started(loop.step)
            try:
                loop.run()
            except RuntimeError as error:
                if not loop.team.has_lost_one(error):
                    raise
                raise loop.team.lost(error, loop.step + 1) from error
        loop.trackers.end()
        if _is_finished(job, loop):
            loop.take_best()
        result = _result(job, loop)
        if result.stopped is not None:
            run_dir.write(result)
            raise Stopped(f"{result.stopped} at step {result.steps}/{job.plan.num_steps}", stop.resume)
        recorder.doing("saving the model")
        result = save_tuned(job, loop, result)
        run_dir.write(result)
        if loop.team.is_first:
            loop.saves.best.clear()  # the last checkpoint holds them
    return result


def calibrate(job: Job, observer: Observer) -> list[Measured]:
    """Time a few real optimizer steps of a job; `job.run_dir` may be a temporary one. About 13 steps."""
    from tunesmith.training.rehearsal import time_steps

    recorder = Recorder(job.run_dir, job.plan.num_steps, observer)
    loop = _loop(job, build_model(job), StopRequest("the same command"), recorder)
    with loop.on_stream():
        return time_steps(loop)


def range_test(job: Job, rates: Sequence[float], stop: StopRequest, observer: Observer) -> list[float]:
    """The training loss of one step at each rate, from the base model on; `job.run_dir` may be a temporary one."""
    from tunesmith.training.rate_range import losses_at

    recorder = Recorder(job.run_dir, job.plan.num_steps, observer)
    loop = _loop(job, build_model(job), stop, recorder)
    with loop.on_stream():
        return losses_at(loop, rates)


def build_model(job: Job, note: Callable[[str], None] = lambda _: None) -> Any:
    """The model on its device, made fast, with its adapter; in training mode. Told: where kernels cannot be used."""
    import torch

    from tunesmith.fast.device import Device
    from tunesmith.fast.proof import proven_device
    from tunesmith.models.load import load_model
    from tunesmith.step import AUTOCAST, StepSettings, prepare_model

    plan = job.plan
    torch.manual_seed(plan.seed)
    stays = plan.offload == "layers"
    if job.base is None or stays:
        place = "cpu" if stays else plan.device
        model = load_model(job.source, dtype=plan.dtype, device=place, quantize=plan.method == "qlora")
    else:
        model = job.base.model(job)
    if stays:
        return prepare_model(model, StepSettings.of(plan), Device.of(torch.device(plan.device)).plain())
    device, why = proven_device(model, AUTOCAST.get(plan.precision, model.dtype))
    if why:
        note(why)
    return prepare_model(model, StepSettings.of(plan), device)


def _loop(job: Job, model: Any, stop: StopRequest, recorder: Recorder) -> Loop:
    import torch

    from tunesmith.evaluate import batch_tokens
    from tunesmith.step import StepSettings, autocast, make_optimizer
    from tunesmith.training.checkpoints.saves import Saves
    from tunesmith.training.clock import Clock
    from tunesmith.training.held_out import HeldOut
    from tunesmith.training.loop import Loop
    from tunesmith.training.processes.distributed import Team
    from tunesmith.training.recovery import Recovery
    from tunesmith.training.steps.batches import Batches
    from tunesmith.training.steps.capture import capture_on
    from tunesmith.training.trackers import Trackers

    plan = job.plan
    team = Team(plan)
    arithmetic = partial(autocast, plan.precision, plan.device)
    team.shard(model)
    _seed(plan.seed)

    def scored(done: int, total: int) -> None:
        recorder.evaluating(done, total)
        if team.size == 1:  # with more, all must leave together: they do at the next step
            stop.check()

    return Loop(
        plan=plan,
        model=model,
        arithmetic=arithmetic,
        optimizer=make_optimizer(model.parameters(), StepSettings.of(plan)),
        scaler=torch.amp.GradScaler(plan.device, enabled=plan.precision == "fp16"),
        team=team,
        batches=Batches(job.data.train, plan, team.device),
        clock=Clock(plan, team.energy_meter()),
        recovery=Recovery(plan.micro_batch_tokens, recorder.note, recorder.happened),
        saves=Saves.of(job.run_dir, plan, recipe=job.recipe.model_dump(mode="json"), **job.fingerprints),
        held_out=HeldOut(model, job.data.eval, arithmetic, batch_tokens(plan), scored, team),
        samples=_samples(job, model, arithmetic, recorder, team),
        recorder=recorder,
        trackers=Trackers(plan.report_to if team.is_first else (), job.run_dir, recorder.note),
        stop=stop,
        capture=capture_on(team.device) if plan.cuda_graphs else None,
    )


def _samples(job: Job, model: Any, arithmetic: Callable[[], Any], recorder: Recorder, team: Team) -> Samples:
    from tunesmith.data.tokens.asked import chat_of
    from tunesmith.training.samples import Samples

    section, chat = job.recipe.compare, chat_of(job.run_dir, job.tokenizer)
    # One process alone cannot run a sharded model, and text is written with layers that are all there.
    number = 0 if team.shards or job.plan.offload == "layers" else job.recipe.eval.samples
    prompts = section.prompts[:number]
    return Samples(model, job.tokenizer, prompts, section, chat, arithmetic, recorder.note)


def _seed(seed: int) -> None:
    """Random numbers from here on, dropout's among them."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _begin(job: Job, loop: Loop) -> None:
    """What happens once, before step 1: prove the batches right, rehearse the largest, score the base model."""
    from tunesmith.machine.memory import release_memory

    with loop.clock.preparing():
        _prove(job, loop)
    release_memory()
    if not loop.stop.requested:
        score = loop.held_out.score
        loop.evaluate(score if job.base is None else partial(job.base.scores, job, score))


def _prove(job: Job, loop: Loop) -> None:
    """Prove the batches right, and rehearse the largest."""
    from tunesmith.plan.measured import refit_predicted
    from tunesmith.selftest import check_invariance
    from tunesmith.training.rehearsal import rehearse, time_usual_steps

    loop.recorder.doing("checking that batches change nothing that is learned")
    # It asks for gradients of single parameters, which of shards nobody has whole, and streamed layers do not give.
    if not loop.team.shards and job.plan.offload == "none":
        check_invariance(loop.model, job.data.train, precision=job.plan.precision)
    if job.plan.rehearse:
        loop.recorder.doing("trying the largest step")
        rehearse(loop)
        if job.plan.device == "cuda":
            refit_predicted(job.run_dir, time_usual_steps(loop), int(loop.batches.fed_before[-1]))


def _introduce(job: Job, model: Any, recorder: Recorder) -> None:
    from tunesmith.machine.threads import choose_waiting
    from tunesmith.models.load import count_parameters

    plan, data, waiting = job.plan, job.data, choose_waiting()
    threads = f"threads    {waiting.how}\n" if waiting.is_busy and plan.device == "cpu" else ""
    trained, total = count_parameters(model)
    recorder.note(
        f"model      {job.source.name}: {total / 1e6:,.1f}M parameters, {trained / 1e6:,.1f}M trained ({plan.method})\n"
        f"data       {len(data.train):,} training and {len(data.eval):,} held-out documents, "
        f"{data.train.num_targets:,} supervised tokens an epoch\n"
        f"steps      {plan.num_steps:,} of {plan.tokens_per_step:,} tokens: {plan.reasons['tokens_per_step']}\n"
        f"precision  {plan.precision} on {plan.device}, {plan.optimizer}, "
        f"learning rate {plan.learning_rate:g} ({plan.schedule})\n"
        f"{threads}run        {job.run_dir.path}"
    )


def _is_finished(job: Job, loop: Loop) -> bool:
    done = loop.step >= job.plan.num_steps or loop.ended_early
    return done and not loop.held_out.so_far.is_pending


def _result(job: Job, loop: Loop) -> Result:
    from tunesmith.machine.memory import peak_bytes

    scores, counts, steps, spent = loop.held_out.so_far, loop.counts, loop.step, loop.clock.spent()
    seconds, last, base = loop.clock.training_seconds(), scores.of_model, scores.base
    finished = _is_finished(job, loop)

    def rate(number: int) -> float | None:
        return number / seconds if seconds > 0 else None

    return Result(
        train_loss=counts.loss_sum / steps if steps else None,
        eval_loss=_value(last, "eval_loss"),
        eval_loss_base=_value(base, "eval_loss"),
        eval_perplexity=_value(last, "eval_perplexity"),
        eval_perplexity_base=_value(base, "eval_perplexity"),
        eval_bits_per_byte=_value(last, "eval_bits_per_byte"),
        eval_bits_per_byte_base=_value(base, "eval_bits_per_byte"),
        eval_token_accuracy=_value(last, "eval_token_accuracy"),
        eval_token_accuracy_base=_value(base, "eval_token_accuracy"),
        test_loss=loop.held_out.score(job.data.test).loss if finished and job.data.test.num_targets else None,
        best_eval_loss=scores.best_loss,
        best_step=scores.best_step,
        last_eval_loss=_value(scores.last, "eval_loss"),
        num_evaluations=scores.num_scored,
        ended_early=finished and steps < job.plan.num_steps,
        train_tokens=counts.tokens,
        train_seconds=seconds,
        tokens_per_second=rate(counts.tokens),
        fed_tokens_per_second=rate(counts.fed_tokens),
        samples_per_second=rate(counts.samples),
        total_seconds=spent.total,
        save_seconds=spent.saving,
        eval_seconds=spent.evaluating,
        prepare_seconds=spent.preparing,
        energy_joules=spent.joules,
        peak_bytes=peak_bytes(loop.team.device),
        steps=steps,
        hardware=_hardware(loop.team.size),
        ended=time.time(),
        stopped=None if finished else (loop.stop.reason or "stopped"),
        events=tuple(loop.recovery.events),
    )


def _hardware(num_processes: int) -> str:
    """`2 x NVIDIA H100 80GB HBM3`, or the processor."""
    from tunesmith.machine.detect import detect_machine

    machine = detect_machine()
    return f"{num_processes} x {machine.name}" if num_processes > 1 and machine.device == "cuda" else machine.name


def _value(scores: EvalScores | None, name: str) -> float | None:
    return None if scores is None else float(getattr(scores, name))


__all__ = ["Job", "calibrate", "range_test", "train"]
