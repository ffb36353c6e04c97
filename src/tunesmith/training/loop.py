"""The training loop. Full, LoRA, QLoRA, one process or many: a method changes what trains, never this.

One turn is one optimizer step: its documents, cut into micro-batches, run forward and backward, their summed loss
divided by the number of targets in the whole step over every process. Because a step is one unit, an out-of-memory
error retries the same step with smaller micro-batches, and a checkpoint never stands inside accumulation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from tunesmith.data.tokens.steps import Indices
from tunesmith.errors import Stopped
from tunesmith.evaluate import Scores
from tunesmith.fast.optimizers.in_backward import InBackward
from tunesmith.fast.optimizers.rounding import RoundingAdamW
from tunesmith.machine.memory import is_out_of_memory, peak_bytes, release_memory
from tunesmith.run.artefacts import MetricsLine, Plan, SamplesLine
from tunesmith.run.recorder import Recorder
from tunesmith.run.signals import StopRequest
from tunesmith.step import clip_norm
from tunesmith.training.checkpoints.saves import Saves
from tunesmith.training.checkpoints.state import load_trainable, rng_state, set_rng_state
from tunesmith.training.clock import ENERGY_SECONDS, Clock, Window
from tunesmith.training.held_out import HeldOut
from tunesmith.training.processes.distributed import Team
from tunesmith.training.processes.sharding import settle
from tunesmith.training.recovery import Recovery
from tunesmith.training.samples import Samples
from tunesmith.training.steps.batches import Batches
from tunesmith.training.steps.capture import CallAgain, CudaCapture
from tunesmith.training.steps.graphs import Graphs
from tunesmith.training.steps.late import Late
from tunesmith.training.steps.numbers import check_finite, check_weights
from tunesmith.training.steps.stepper import Stepper
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
    capture: CallAgain | CudaCapture | None = None
    """How steps are recorded, where the plan says so."""
    step: int = 0
    counts: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        self.wrapped = self.team.wrap(self.model)
        self.stepper = Stepper(
            model=self.wrapped,
            arithmetic=self.arithmetic,
            optimizer=self.optimizer,
            scaler=self.scaler,
            trained=tuple(parameter for parameter in self.model.parameters() if parameter.requires_grad),
            max_grad_norm=clip_norm(self.plan.max_grad_norm),
            in_backward=self._in_backward(),
        )
        self._moved_by: torch.Tensor | None = None
        """Norm of the gradients by which the weights have moved already."""
        self.graphs: Graphs | None = None
        if self.capture is not None:
            self.graphs = Graphs(self.stepper, self.capture, self.team.device, self.recorder.note)
        self._unlogged: list[torch.Tensor] = []
        self._unwritten: tuple[MetricsLine, float | None, Late] | None = None
        self._unchecked: tuple[int, Late] | None = None

    def _in_backward(self) -> InBackward | None:
        if not self.plan.update_in_backward:
            return None
        assert isinstance(self.optimizer, RoundingAdamW), "planned for weights in bfloat16 alone"
        return InBackward([self.optimizer])

    def on_stream(self) -> AbstractContextManager[None]:
        """Inside, work is launched on the stream of recorded steps, where there are such."""
        return nullcontext() if self.capture is None else self.capture.on_stream()

    def run(self) -> None:
        """Train from `step` to the end of the plan, or to a stop that was asked for: the last step is saved then."""
        self._finish_evaluation()
        with self.clock.preparing():
            self.record_steps()
        self.clock.window = Window()
        going = self.step < self.plan.num_steps and not self.stop.requested and not self.ended_early
        while going:
            documents = self.batches.steps[self.step]
            self.set_learning_rate()
            self._unlogged.append(self.forward_backward(documents))
            grad_norm = self.update()
            self.step += 1
            self._count(documents)
            going = self._after_step(grad_norm)
        self._write_line()
        self._check_previous()

    # ---- one optimizer step ----

    def forward_backward(self, documents: Indices) -> torch.Tensor:
        """The gradients of one step, tried in smaller parts when memory runs out. Returns the step's loss."""
        if not (self.wrapped.training and self.model.training):
            self.wrapped.train()  # tells each module, which takes as long as to start a recorded step
        random_state = rng_state()
        while True:
            try:
                return self._forward_backward(documents)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or self.team.size > 1:
                    raise  # with several processes the others already wait for this one's gradients
                if self.stepper.in_backward is not None:
                    raise self.recovery.cannot_retry(self.step + 1, self.saves.run_dir.checkpoints) from None
            self.optimizer.zero_grad()
            release_memory()
            set_rng_state(random_state)
            if self._give_up_graphs():  # without what they held, the same passes may fit
                continue
            self.recovery.halve_micro_batch(self.step + 1, documents, self.batches)

    def record_steps(self) -> None:
        """Record what the steps to come are replayed from, one of each size, once; nothing where the plan says so."""
        if self.graphs is None or self.graphs.off or self.graphs.num_recorded:
            return
        self.wrapped.train()
        try:
            self.graphs.prepare(self.batches.examples(self.step, self.recovery.micro_batch_tokens))
        except torch.OutOfMemoryError:
            self._give_up_graphs()

    def _give_up_graphs(self) -> bool:
        """After memory ran out; whether that gave some back."""
        if self.graphs is None or not self.graphs.give_up("memory ran out"):
            return False
        release_memory()
        self.recovery.gave_up_graphs(self.step + 1)
        return True

    def _forward_backward(self, documents: Indices) -> torch.Tensor:
        team, batches = self.team, self.batches
        size = batches.size_of(documents, self.recovery.micro_batch_tokens)
        if size is not None and self.graphs is not None:
            return self.graphs.forward_backward((batches.filled(documents, size), batches.num_targets(documents)))
        if self.stepper.in_backward is not None:
            return self._lean_step(documents)
        parts = batches.parts(documents, self.recovery.micro_batch_tokens, team.rank, team.size)
        share = batches.num_targets(documents) / team.size
        passes = [(part, share) for part in parts]
        wanted = batches.num_passes(documents, self.recovery.micro_batch_tokens, team.size) if team.shards else 1
        while len(passes) < wanted:  # with nothing of its own a process takes part in the exchanges of the others
            passes.append((documents[:1], math.inf))
        total = torch.zeros((), device=team.device)
        for number, (part, over) in enumerate(passes):
            with team.alone(self.wrapped) if number + 1 < len(passes) else nullcontext():
                total += self.stepper.run_pass(batches.flat(part), over, is_first=number == 0)
        return total

    def _lean_step(self, documents: Indices) -> torch.Tensor:
        """A step whose weights have moved when this returns."""
        random_state = rng_state()
        flat, share = self.batches.flat(documents), self.batches.num_targets(documents)
        loss, self._moved_by = self.stepper.run_lean(flat, share, lambda: set_rng_state(random_state))
        return loss

    def update(self) -> torch.Tensor:
        """Clip the gradients and move the weights; returns the norm before clipping.

        One that is not finite ends the run within a step.
        """
        norm, self._moved_by = self._moved_by, None
        if norm is None and self.graphs is not None:
            norm = self.graphs.update()
        if norm is not None:
            self._look_at_norm(norm)
            return norm
        norm = self.stepper.clip()
        self._look_at_norm(norm)
        self.stepper.move()
        return norm

    def _look_at_norm(self, norm: torch.Tensor) -> None:
        where = self.step + 1
        if self.team.device.type == "cpu":
            self._check_norm(where, float(norm))
        else:  # read while the next step runs, so that no step waits for the host
            self._check_previous()
            self._unchecked = (where, Late(norm))

    def forget_norm(self) -> None:
        """The step whose norm is not read yet was a rehearsal."""
        self._unchecked = None

    def _check_previous(self) -> None:
        if self._unchecked is not None:
            step, norm = self._unchecked
            self._unchecked = None
            self._check_norm(step, norm.read()[0])

    def _check_norm(self, step: int, value: float) -> None:
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
        self._write_line()  # of the step before: this one's work is on its way
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
        if self.ended_early and not last:
            self._tell_early_end()
            last = save = True
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
        """Take down a line of metrics.jsonl, with the mean loss since the last; on a GPU it is written a step later."""
        numbers = torch.stack([*self.team.means(torch.stack(self._unlogged)), grad_norm.detach().float()])
        self._unlogged.clear()
        tokens_per_second, fed_per_second = self.clock.close_window()
        spent = self.clock.spent(ENERGY_SECONDS)
        fed = self.batches.fed_before
        line = MetricsLine(
            step=self.step,
            epoch=self.batches.epoch(self.step),
            learning_rate=self.optimizer.param_groups[0]["lr"],
            tokens_per_second=tokens_per_second,
            fed_tokens_per_second=fed_per_second,
            peak_bytes=peak_bytes(self.team.device),
            energy_joules=spent.joules,
            time=spent.total,
        )
        left = self.clock.seconds_left(self.counts.fed_tokens, int(fed[-1] - fed[self.step]))
        self._unwritten = line, left, Late(numbers)
        if self.team.device.type == "cpu":
            self._write_line()

    def _write_line(self) -> None:
        """The line that was taken down last, if it is not written yet."""
        if self._unwritten is None:
            return
        (line, seconds_left, numbers), self._unwritten = self._unwritten, None
        *losses, grad_norm = numbers.read()
        loss = sum(losses) / len(losses)
        check_finite(line.step, self.saves.run_dir.checkpoints, loss=loss)
        self.counts.loss_sum += sum(losses)
        for step, of_step in enumerate(losses, start=line.step - len(losses)):
            self.recovery.look_at_loss(step + 1, of_step, self.batches.steps[step], self.batches)
        line = line.model_copy(update={"loss": loss, "grad_norm": grad_norm})
        self.recorder.stepped(line, seconds_left)
        self._track(line)

    def evaluate(self, score: Callable[[], Scores] | None = None) -> bool:
        """Score the held-out documents, by `score` where it is given, and write it down; True unless a stop cut it
        short.

        The step is then saved, and scored when the run goes on. Where nothing was held out, nothing is done.
        """
        self._write_line()
        if self.held_out.is_empty:
            return True
        self.held_out.so_far.is_pending = True
        with self.clock.evaluating():
            try:
                scores = (score or self.held_out.score)()
            except Stopped:
                if self.step == 0:
                    raise
                return False
        check_finite(self.step, self.saves.run_dir.checkpoints, eval_loss=scores.loss)
        is_best = self.team.agree(self.held_out.is_best(self.step, scores))[0]
        found = self.held_out.keep(self.step, scores, is_best=is_best, weights_stay=self.keeps_best)
        if is_best and self.keeps_best:
            self._keep_weights()
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

    @property
    def keeps_best(self) -> bool:
        """Whether the weights of the lowest held-out loss become the model."""
        return self.plan.early_stopping is not None and not self.held_out.is_empty

    @property
    def ended_early(self) -> bool:
        """Whether the held-out loss has not fallen for as long as the plan waits."""
        patience = self.plan.early_stopping
        return patience is not None and self.held_out.so_far.since_best >= patience

    def _tell_early_end(self) -> None:
        so_far = self.held_out.so_far
        self.recorder.num_steps = self.step
        self.recorder.note(
            f"ended early at step {self.step} of {self.plan.num_steps}: the held-out loss was lowest at step "
            f"{so_far.best_step} ({so_far.best_loss:.3f}), {so_far.since_best} evaluations ago; "
            "train.early_stopping: false goes on"
        )

    def _keep_weights(self) -> None:
        with self.clock.saving():
            settle(self.model)
            self.saves.keep_best(self)

    def take_best(self) -> None:
        """Put the weights of the lowest held-out loss into the model, where they are kept and are others."""
        best_step = self.held_out.so_far.best_step
        if self.held_out.so_far.best is None or best_step in (None, self.step):
            return
        with self.clock.saving():
            self.team.agree(False)  # the first process has written them
            settle(self.model)
            load_trainable(self.model, self.saves.best.path(best_step))
        self.recorder.note(f"the model is that of step {best_step}, whose held-out loss was the lowest")

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
            self._write_line()
            self._check_previous()
            settle(self.model)
            check_weights(self.step, self.saves.run_dir.checkpoints, self.model)
            self.saves.save(self)
            if self.team.is_first:
                self.recorder.saved(self.step)


def rate_at(step: int, *, schedule: str, warmup: int, total: int) -> float:
    """Share of the learning rate at `step` (0-based). Neither the first nor the last step is wasted on a rate of 0."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    left = max(total - step, 0) / max(total - warmup, 1)
    return left if schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left))
