"""The training loop. Full, LoRA, QLoRA, one process or many: a method changes what trains, never this.

One turn is one optimizer step: its documents, cut into micro-batches, run forward and backward, their summed loss
divided by the number of targets in the whole step over every process. Because a step is one unit, an out-of-memory
error retries the same step with smaller micro-batches, and a checkpoint never stands inside accumulation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch

from tunesmith.data.tokens.steps import Indices
from tunesmith.errors import Stopped
from tunesmith.machine.memory import is_out_of_memory, peak_bytes, release_memory
from tunesmith.run.artefacts import MetricsLine, Plan, SamplesLine
from tunesmith.run.recorder import Recorder
from tunesmith.run.signals import StopRequest
from tunesmith.step import clip_gradients
from tunesmith.training.batches import Batches
from tunesmith.training.clock import Clock, Window
from tunesmith.training.distributed import Team
from tunesmith.training.held_out import HeldOut
from tunesmith.training.numbers import check_finite, check_weights
from tunesmith.training.recovery import Recovery
from tunesmith.training.samples import Samples
from tunesmith.training.saves import Saves
from tunesmith.training.state import rng_state, set_rng_state
from tunesmith.training.trackers import Trackers


@dataclass
class Counts:
    """What was trained on so far, and the sum of the steps' losses."""

    tokens: int = 0
    """Supervised ones."""
    fed_tokens: int = 0
    samples: int = 0
    loss_sum: float = 0.0


@dataclass
class Loop:
    """One run on its way: `step` optimizer steps are done."""

    plan: Plan
    model: Any
    arithmetic: Callable[[], AbstractContextManager[Any]]
    """Autocast to the plan's type, or nothing."""
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    team: Team
    batches: Batches
    clock: Clock
    recovery: Recovery
    saves: Saves
    held_out: HeldOut
    samples: Samples
    recorder: Recorder
    trackers: Trackers
    stop: StopRequest
    step: int = 0
    counts: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        self.wrapped = self.team.wrap(self.model)
        self._trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self._unlogged: list[torch.Tensor] = []
        self._unchecked: tuple[int, torch.Tensor] | None = None

    def run(self) -> None:
        """Train from `step` to the end of the plan, or to a stop that was asked for: the last step is saved then."""
        self.clock.window = Window()
        self._finish_evaluation()
        going = self.step < self.plan.num_steps and not self.stop.requested
        while going:
            documents = self.batches.steps[self.step]
            self.set_learning_rate()
            self._unlogged.append(self.forward_backward(documents))
            grad_norm = self.clip()
            if self.scaler.is_enabled():
                self.scaler.step(self.optimizer)
                self.scaler.update()
            else:
                self.optimizer.step()
            self.optimizer.zero_grad()
            self.step += 1
            self._count(documents)
            going = self._after_step(grad_norm)
        self._check_previous()

    # ---- one optimizer step ----

    def forward_backward(self, documents: Indices) -> torch.Tensor:
        """The gradients of one step, tried in smaller parts when memory runs out. Returns the step's loss."""
        self.wrapped.train()
        random_state = rng_state()
        while True:
            try:
                return self._forward_backward(documents)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or self.team.size > 1:
                    raise  # with several processes the others already wait for this one's gradients
            self.optimizer.zero_grad()
            release_memory()
            set_rng_state(random_state)
            self.recovery.halve_micro_batch(self.step + 1, documents, self.batches)

    def _forward_backward(self, documents: Indices) -> torch.Tensor:
        team, batches = self.team, self.batches
        parts = batches.parts(documents, self.recovery.micro_batch_tokens, team.rank, team.size)
        share = batches.num_targets(documents) / team.size
        if not parts:  # fewer documents than processes: take part in the exchange of gradients, with none
            parts, share = [documents[:1]], math.inf
        total = torch.zeros((), device=team.device)
        for part in parts[:-1]:
            with team.alone(self.wrapped):
                total += self._pass(part, share)
        return total + self._pass(parts[-1], share)

    def _pass(self, part: Indices, share: float) -> torch.Tensor:
        """Forward and backward of one micro-batch; its graph is gone when this returns, and leaves no gaps."""
        with self.arithmetic():
            loss: torch.Tensor = self.wrapped(flat=self.batches.flat(part), denominator=share).loss
        self.scaler.scale(loss).backward()
        return loss.detach()

    def clip(self) -> torch.Tensor:
        """Clip the gradients; returns their norm before. One that is not finite ends the run within a step."""
        self.scaler.unscale_(self.optimizer)
        norm = clip_gradients(self._trained, self.plan.max_grad_norm)
        where = self.step + 1
        if self.team.device.type == "cpu":
            self._check_norm(where, norm)
        else:  # read while the next step runs, so that no step waits for the host
            self._check_previous()
            self._unchecked = (where, norm.detach().to("cpu", non_blocking=True))
        return norm

    def forget_norm(self) -> None:
        """The step whose norm is not read yet was a rehearsal."""
        self._unchecked = None

    def _check_previous(self) -> None:
        if self._unchecked is not None:
            self._check_norm(*self._unchecked)
            self._unchecked = None

    def _check_norm(self, step: int, norm: torch.Tensor) -> None:
        value = float(norm)
        if not math.isfinite(value) and self.scaler.is_enabled() and self.scaler.get_scale() >= 1:
            return  # fp16: the step is left out and the scale lowered; below 1 it is no overflow any more
        check_finite(step, self.saves.run_dir.checkpoints, grad_norm=value)

    def set_learning_rate(self) -> None:
        """The rate of the step that comes."""
        plan = self.plan
        rate = plan.learning_rate * rate_at(
            self.step, schedule=plan.schedule, warmup=plan.warmup_steps, total=plan.num_steps
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _count(self, documents: Indices) -> None:
        targets, fed = self.batches.num_targets(documents), self.batches.num_fed(documents)
        self.counts.tokens += targets
        self.counts.fed_tokens += fed
        self.counts.samples += len(documents)
        self.clock.count(targets, fed)

    # ---- between steps ----

    def _after_step(self, grad_norm: torch.Tensor) -> bool:
        """Log, evaluate and save, as is due; all processes do the same. Returns whether another step follows."""
        clock, last = self.clock, self.step >= self.plan.num_steps
        self._listen()
        stop, score, save = self.team.agree(
            self.stop.requested, clock.eval_is_due(self.step), clock.save_is_due(self.step)
        )
        if stop:
            self.stop.ask("another process was asked to stop")
            self.recorder.stopping()
        score, save = last or score, last or save or stop
        if score or save or clock.log_is_due(self.step):
            self._log(grad_norm)
        if score and not self.evaluate():
            save = stop = True
        if save:
            self.save()
        return not (last or stop)

    def _listen(self) -> None:
        """To what others ask for between steps, and to a terminal that went away."""
        if self.team.is_first and self.recorder.stop_was_asked():
            self.stop.ask("tunesmith stop")
        if self.stop.hung_up and not self.stop.stop_on_hangup:
            self.stop.hung_up = False
            self.recorder.note(f"the terminal went away; the run goes on: tunesmith attach {self.saves.run_dir.path}")

    def _log(self, grad_norm: torch.Tensor) -> None:
        """Write a line of metrics.jsonl, with the mean loss since the last one."""
        losses = self.team.means(torch.stack(self._unlogged))
        self._unlogged.clear()
        loss = sum(losses) / len(losses)
        check_finite(self.step, self.saves.run_dir.checkpoints, loss=loss)
        self.counts.loss_sum += sum(losses)
        for step, of_step in enumerate(losses, start=self.step - len(losses)):
            self.recovery.look_at_loss(step + 1, of_step, self.batches.steps[step], self.batches)
        tokens_per_second, fed_per_second = self.clock.close_window()
        spent = self.clock.spent()
        line = MetricsLine(
            step=self.step,
            epoch=self.batches.epoch(self.step),
            loss=loss,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            grad_norm=float(grad_norm),
            tokens_per_second=tokens_per_second,
            fed_tokens_per_second=fed_per_second,
            peak_bytes=peak_bytes(self.team.device),
            energy_joules=spent.joules,
            time=spent.total,
        )
        fed = self.batches.fed_before
        left = int(fed[-1] - fed[self.step])
        self.recorder.stepped(line, self.clock.seconds_left(self.counts.fed_tokens, left))
        self._track(line)

    def evaluate(self) -> bool:
        """Score the held-out documents and write it down; True unless a stop cut it short.

        The step is then saved, and scored when the run goes on. Where nothing was held out, nothing is done.
        """
        if self.held_out.is_empty:
            return True
        self.held_out.so_far.is_pending = True
        with self.clock.evaluating():
            try:
                scores = self.held_out.score()
            except Stopped:
                if self.step == 0:
                    raise
                return False
        check_finite(self.step, self.saves.run_dir.checkpoints, eval_loss=scores.loss)
        found = self.held_out.keep(self.step, scores)
        line = MetricsLine(
            step=self.step,
            epoch=self.batches.epoch(self.step),
            time=self.clock.spent().total,
            **found.model_dump(),
        )
        self.recorder.evaluated(line, found)
        self._track(line)
        self._write_samples()
        return True

    def _write_samples(self) -> None:
        with self.clock.evaluating():
            texts = self.samples.write() if self.team.is_first else ()
        if texts:
            line = SamplesLine(step=self.step, texts=texts)
            self.recorder.wrote(line)
            self.trackers.wrote(line)

    def _track(self, line: MetricsLine) -> None:
        base = self.held_out.so_far.base
        self.trackers.log(line, base.eval_loss if base is not None else None)

    def _finish_evaluation(self) -> None:
        """Make the evaluation that a stop cut short."""
        if self.held_out.so_far.is_pending and not self.evaluate():
            raise self.stop.stopped()

    def save(self) -> None:
        """Write a checkpoint of this step. Raises TrainingError when a weight is not finite."""
        with self.clock.saving():
            self._check_previous()
            check_weights(self.step, self.saves.run_dir.checkpoints, self.model)
            if self.team.is_first:
                self.saves.save(self)
                self.recorder.saved(self.step)


def rate_at(step: int, *, schedule: str, warmup: int, total: int) -> float:
    """Share of the learning rate at `step` (0-based). Neither the first nor the last step is wasted on a rate of 0."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    left = max(total - step, 0) / max(total - warmup, 1)
    return left if schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left))
