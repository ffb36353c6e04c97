"""The training loop: transformers.Trainer through its extension points.

One item of the loader is one optimizer step: the indices of its documents. `training_step` cuts it into micro-batches,
runs them forward and backward, and divides their summed loss by the number of targets in the whole step, over every
process. Because a step is one unit, an out-of-memory error retries the same step with smaller micro-batches, and a
checkpoint never stands inside accumulation.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from tunesmith.data import TokenizedDocuments
from tunesmith.data.tokens.steps import Indices, micro_batches, rank_share, run_steps
from tunesmith.errors import Stopped, TrainingError
from tunesmith.evaluate import Scores, evaluate
from tunesmith.fast.layout import FlatBatch, flatten, row_multiple
from tunesmith.forecast.step import AUTOCAST
from tunesmith.recipe import Recipe, duration_seconds
from tunesmith.run.artefacts import Plan
from tunesmith.run.directory import RunDir
from tunesmith.run.signals import StopRequest
from tunesmith.show.progress import Progress
from tunesmith.training.checkpoint import save_checkpoint
from tunesmith.training.memory import is_out_of_memory, peak_bytes, release_memory
from tunesmith.training.numbers import check_finite, check_weights
from tunesmith.training.optimizer import make_optimizer
from tunesmith.training.state import (
    environment,
    load_optimizer,
    load_rng_state,
    load_trainable,
    load_tree,
    rng_state,
    save_optimizer,
    save_trainable,
    save_tree,
    set_rng_state,
)

MODEL_STATE = "model.safetensors"
OPTIMIZER_STATE = "optimizer.safetensors"
PROGRESS_STATE = "progress.safetensors"
RANDOM_STATE = "rng.safetensors"
MIN_SAVE_SECONDS = 60.0
SAVE_SHARE = 0.04
LOG_LINES = 200


@dataclass
class RunState:
    """What a resumed run must know beyond weights, optimizer and random numbers."""

    seconds: float = 0.0
    save_seconds: float = 0.0
    eval_seconds: float = 0.0
    train_tokens: int = 0
    train_samples: int = 0
    loss_sum: float = 0.0
    micro_batch_tokens: int = 0
    best_step: int | None = None
    best_eval_loss: float = math.inf
    base_eval: dict[str, float] = field(default_factory=dict)
    last_eval: dict[str, float] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    eval_is_pending: bool = False
    """A stop cut the evaluation of the saved step short; it is made before the next step."""


class _Steps(Dataset[Indices]):
    def __init__(self, steps: list[Indices]) -> None:
        self.steps = steps

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> Indices:
        return self.steps[index]


class FlatTrainer(Trainer):
    """Trains a fast.apply'd model on flat batches, with recovery and without ever keeping logits."""

    def __init__(
        self,
        model: Any,
        *,
        recipe: Recipe,
        plan: Plan,
        documents: TokenizedDocuments,
        eval_documents: TokenizedDocuments,
        run_dir: RunDir,
        stop: StopRequest,
        progress: Progress,
        fingerprints: dict[str, str],
    ) -> None:
        self.recipe, self.plan, self.run_dir = recipe, plan, run_dir
        self.documents, self.eval_documents = documents, eval_documents
        self.stop, self.progress, self.fingerprints = stop, progress, fingerprints
        self.fed_tokens = np.asarray(documents.lengths, dtype=np.int64) - 1
        self.targets_per_document = documents.targets_per_document
        self.steps = run_steps(
            self.fed_tokens,
            plan.tokens_per_step,
            seed=recipe.train.seed,
            epochs=recipe.train.epochs,
            max_steps=recipe.train.max_steps,
        )
        self.run_state = RunState(micro_batch_tokens=plan.micro_batch_tokens)
        self.eval_tokens = plan.micro_batch_tokens
        self.save_seconds = 0.0
        super().__init__(model=model, args=_arguments(recipe, plan, run_dir), train_dataset=_Steps(self.steps))
        self.remove_callback(PrinterCallback)
        self.add_callback(_Flow(self))
        self.log_every = max(1, len(self.steps) // LOG_LINES) if plan.device == "cuda" else 1
        self._logged_step = 0
        self._window_tokens = 0
        self._session_start = time.monotonic()
        self._last_save = self._last_eval = self._session_start
        self._window_start = self._session_start
        self._unchecked: tuple[int, torch.Tensor] | None = None

    # ---- data ----

    def get_train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(_Steps(self.steps), batch_size=1, shuffle=False, collate_fn=lambda items: items[0])

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], None]:
        return list(itertools.islice(epoch_iterator, num_batches)), None

    def flat_batch(self, indices: Indices) -> FlatBatch:
        """The documents of one micro-batch, on this process's device."""
        device = self.args.device
        return flatten([self.documents[int(i)] for i in indices], row_multiple(device)).to(device)

    # ---- one optimizer step ----

    def training_step(self, model: Any, inputs: Indices, num_items_in_batch: Any = None) -> torch.Tensor:
        model.train()
        random_state = rng_state()
        while True:
            try:
                return self._forward_backward(model, inputs)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or self.args.world_size > 1:
                    raise  # with several processes the others already wait for this one's gradients
            model.zero_grad()
            release_memory()
            set_rng_state(random_state)
            self._halve_micro_batch(inputs)

    def _forward_backward(self, model: Any, step: Indices) -> torch.Tensor:
        world = self.args.world_size
        mine = rank_share(step, self.fed_tokens, self.args.process_index, world)
        num_targets = int(self.targets_per_document[step].sum())
        share = num_targets / world
        if len(mine) == 0:  # fewer documents than processes: take part in the exchange of gradients, with none
            mine, share = step[:1], math.inf
        parts = micro_batches(mine, self.fed_tokens, self.run_state.micro_batch_tokens)
        total = torch.zeros((), device=self.args.device)
        for position, part in enumerate(parts):
            last = position == len(parts) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(model):
                with self.compute_loss_context_manager():
                    loss = model(flat=self.flat_batch(part), denominator=share).loss
                self.accelerator.backward(loss)
                total += loss.detach()
                del loss  # with the nodes of its graph, which would leave gaps between the next part's tensors
        self._count(step, num_targets)
        return total

    def _count(self, step: Indices, num_targets: int) -> None:
        state = self.run_state
        state.train_tokens += num_targets
        state.train_samples += len(step)
        self._window_tokens += int(self.fed_tokens[step].sum())

    def _halve_micro_batch(self, step: Indices) -> None:
        old = min(self.run_state.micro_batch_tokens, int(self.fed_tokens[step].sum()))
        longest = int(step[np.argmax(self.fed_tokens[step])])
        if old <= int(self.fed_tokens[longest]):
            raise TrainingError(
                f"{self.documents.row_name(longest)}: {self.fed_tokens[longest]} tokens do not fit in memory even "
                f"alone. Set train.max_length below {self.fed_tokens[longest]}, train.gradient_checkpointing: true, or "
                "train.method: lora."
            )
        new = max(old // 2, 1)
        self.run_state.micro_batch_tokens = new
        note = f"out of memory at step {self.state.global_step + 1}: micro-batch {old} -> {new} tokens, same step again"
        self.run_state.events.append({"step": self.state.global_step + 1, "kind": "out_of_memory", "note": note})
        self.progress.note(note)

    def compute_loss_context_manager(self) -> contextlib.AbstractContextManager[Any]:
        """The plan's arithmetic, also where no `train` has prepared the model, as when steps are timed."""
        kind = AUTOCAST.get(self.plan.precision)
        return contextlib.nullcontext() if kind is None else torch.autocast(self.args.device.type, dtype=kind)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            self.optimizer: Any = make_optimizer(self.model, self.plan)
        made: torch.optim.Optimizer = self.optimizer
        return made

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            rate = partial(
                rate_at, schedule=self.plan.schedule, warmup=self.plan.warmup_steps, total=num_training_steps
            )
            self.lr_scheduler: Any = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, rate)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        grad_norm = super()._get_grad_norm(model, grad_norm)
        where = self.state.global_step + 1
        if self.args.device.type == "cpu":
            check_finite(where, self.run_dir.checkpoints, grad_norm=float(grad_norm))
        else:
            self._check_previous()
            self._unchecked = (where, grad_norm.detach().to("cpu", non_blocking=True))
        return grad_norm

    def _check_previous(self) -> None:
        """On a GPU the norm of a step is read while the next one runs, so that no step waits for the host."""
        if self._unchecked is not None:
            step, norm = self._unchecked
            check_finite(step, self.run_dir.checkpoints, grad_norm=float(norm))
            self._unchecked = None

    def floating_point_ops(self, inputs: Any) -> int:
        return 0

    # ---- evaluation ----

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Held-out scores of the model as it is; written to metrics.jsonl and never able to shrink training.

        A stop that is asked for meanwhile ends the evaluation: the step is saved, and scored when the run goes on.
        """
        started = time.monotonic()
        step, state = self.state.global_step, self.run_state
        self.control.should_evaluate = False
        state.eval_is_pending = True
        try:
            scores = self.score()
        except Stopped:
            if step == 0:
                raise
            self.control.should_save = self.control.should_training_stop = True
            return {}
        state.eval_is_pending = False
        check_finite(step, self.run_dir.checkpoints, eval_loss=scores.loss)
        metrics = eval_metrics(scores)
        state.last_eval = metrics
        if scores.loss < state.best_eval_loss:
            state.best_eval_loss, state.best_step = scores.loss, step
        self.run_dir.append_metrics({"step": step, "epoch": self.epoch(), **metrics, "time": self.elapsed()})
        self.progress.evaluated(step, scores)
        seconds = time.monotonic() - started
        state.eval_seconds += seconds
        self._window_start += seconds
        self._last_eval = time.monotonic()
        return metrics

    def score(self) -> Scores:
        """Scores of the held-out documents in the arithmetic of the steps, with random numbers untouched."""
        random_state = rng_state()
        self.model.eval()
        try:
            with self.compute_loss_context_manager():
                return evaluate(self.model, self.eval_documents, max_tokens=self.eval_tokens, progress=self._scored)
        finally:
            self.model.train()
            set_rng_state(random_state)
            release_memory()

    def _scored(self, done: int, total: int) -> None:
        self.progress.evaluating(done, total)
        if self.args.world_size == 1:  # with more, all must leave together: they do at the next step
            self.stop.check()

    def eval_is_due(self) -> bool:
        every = self.plan.eval_every
        if isinstance(every, int):
            return bool(self.state.global_step % every == 0)
        return time.monotonic() - self._last_eval >= duration_seconds(every)

    def agree(self, *wishes: bool) -> list[bool]:
        """What any process wishes, all do: clocks and signals differ between them, and some of it needs everybody."""
        if self.args.world_size == 1:
            return list(wishes)
        votes = torch.tensor(wishes, dtype=torch.int32, device=self.args.device)
        torch.distributed.all_reduce(votes, op=torch.distributed.ReduceOp.MAX)
        return [bool(vote) for vote in votes.tolist()]

    # ---- logging ----

    def epoch(self) -> float:
        return float(self.state.global_step / len(self.steps) * self.recipe.train.epochs)

    def elapsed(self) -> float:
        """Seconds of training so far, those before a resume included."""
        return self.run_state.seconds + time.monotonic() - self._session_start

    def training_seconds(self) -> float:
        """Seconds in optimizer steps: `elapsed` without evaluation and saving."""
        return max(0.0, self.elapsed() - self.run_state.eval_seconds - self.run_state.save_seconds)

    def forget_window(self) -> None:
        """Throughput is measured from now on."""
        self._window_tokens, self._window_start = 0, time.monotonic()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Write a line of metrics.jsonl. Trainer calls this with the mean loss since the last line."""
        if "loss" not in logs:
            return
        now, step = time.monotonic(), self.state.global_step
        check_finite(step, self.run_dir.checkpoints, loss=logs["loss"])
        self.run_state.loss_sum += logs["loss"] * (step - self._logged_step)
        line = {
            "step": step,
            "epoch": self.epoch(),
            "loss": logs["loss"],
            "learning_rate": logs["learning_rate"],
            "grad_norm": logs.get("grad_norm"),
            "tokens_per_second": self._window_tokens / max(now - self._window_start, 1e-9),
            "peak_bytes": peak_bytes(self.args.device),
            "time": self.elapsed(),
        }
        self._logged_step, self._window_tokens, self._window_start = step, 0, now
        self.run_dir.append_metrics(line)
        self.progress.stepped(line)
        super().log(logs, start_time)
        self.state.log_history.clear()

    # ---- checkpoints ----

    def _save_checkpoint(self, model: Any, trial: Any = None) -> None:
        """Write step-N whole or not at all. Trainer calls this right after the step was logged and evaluated."""
        started = time.monotonic()
        self._check_previous()
        check_weights(self.state.global_step, self.run_dir.checkpoints, self.model)
        self.run_state.seconds = self.elapsed()
        self._session_start = time.monotonic()
        if self.is_world_process_zero():
            save_checkpoint(
                self.run_dir.checkpoints,
                self.state.global_step,
                self._write_state,
                info=self._info(),
                keep=self.recipe.save.keep,
                best_step=self.run_state.best_step,
                required_bytes=self.checkpoint_bytes(),
            )
        self._last_save = time.monotonic()
        self.save_seconds = self._last_save - started
        self.run_state.save_seconds += self.save_seconds
        self._window_start += self.save_seconds

    def _info(self) -> dict[str, Any]:
        """What a run that goes on compares itself with, and the plan that it keeps."""
        return {
            **self.fingerprints,
            "recipe": self.recipe.model_dump(mode="json"),
            "plan": self.plan.to_json(),
            "environment": environment(),
            "eval": self.run_state.last_eval,
        }

    def _write_state(self, folder: Path) -> None:
        save_trainable(self.model, folder / MODEL_STATE)
        save_optimizer(self.optimizer, folder / OPTIMIZER_STATE)
        save_tree(rng_state(), folder / RANDOM_STATE)
        scaler = self.accelerator.scaler
        progress = {
            "run": asdict(self.run_state),
            "scheduler": self.lr_scheduler.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
        }
        save_tree(progress, folder / PROGRESS_STATE)
        self.state.save_to_json(str(folder / "trainer_state.json"))

    def checkpoint_bytes(self) -> int:
        """Bytes that one checkpoint takes on disk: trained weights and the optimizer's two moments, all of one type."""
        trained = sum(tensor.numel() * tensor.element_size() for tensor in trained_tensors(self.model).values())
        return 3 * trained + 1_000_000

    def save_is_due(self) -> bool:
        """Whether save.every has come round; auto bounds the share of time that saving takes."""
        every = self.plan.save_every
        if isinstance(every, int):
            return bool(self.state.global_step % every == 0)
        since = time.monotonic() - self._last_save
        if every == "auto":
            return since >= max(MIN_SAVE_SECONDS, self.save_seconds / SAVE_SHARE)
        return since >= duration_seconds(every)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        load_trainable(self.model, folder / MODEL_STATE)
        self.run_state = RunState(**load_tree(folder / PROGRESS_STATE)["run"])

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        load_optimizer(self.optimizer, Path(checkpoint) / OPTIMIZER_STATE)
        progress = load_tree(Path(checkpoint) / PROGRESS_STATE)
        self.lr_scheduler.load_state_dict(progress["scheduler"])
        self._renew_rates()
        if self.accelerator.scaler is not None and progress["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(progress["scaler"])
        self._logged_step = self.state.global_step

    def _renew_rates(self) -> None:
        """The next step's rate as this recipe has it: a run that was made longer does not go on from the rate 0."""
        schedule = getattr(self.lr_scheduler, "scheduler", self.lr_scheduler)
        schedule.base_lrs = [self.plan.learning_rate] * len(schedule.base_lrs)
        rates = [
            base * rate(schedule.last_epoch) for base, rate in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
        ]
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        schedule._last_lr = rates

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            load_rng_state(Path(checkpoint) / RANDOM_STATE)

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Loaded together with the scheduler."""


class _Flow(TrainerCallback):
    """Says after each step whether to log, evaluate, save or stop."""

    def __init__(self, trainer: FlatTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer = self.trainer
        if trainer.run_state.eval_is_pending:
            trainer.evaluate()
            if trainer.run_state.eval_is_pending:
                raise trainer.stop.stopped()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer, step = self.trainer, state.global_step
        last = step >= state.max_steps
        stop, evaluate, save = trainer.agree(trainer.stop.requested, trainer.eval_is_due(), trainer.save_is_due())
        if stop:
            trainer.stop.ask("another process was asked to stop")
        control.should_training_stop = last or stop
        control.should_evaluate = last or evaluate
        control.should_save = last or stop or save
        control.should_log = control.should_save or control.should_evaluate or step % trainer.log_every == 0


def trained_tensors(model: Any) -> dict[str, torch.Tensor]:
    """Trainable parameters by name, tied ones once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def rate_at(step: int, *, schedule: str, warmup: int, total: int) -> float:
    """Share of the learning rate at `step` (0-based). Neither the first nor the last step is wasted on a rate of 0."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    left = max(total - step, 0) / max(total - warmup, 1)
    return left if schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left))


def eval_metrics(scores: Scores) -> dict[str, float]:
    """Held-out scores under the names of metrics.jsonl and result.json."""
    return {
        "eval_loss": scores.loss,
        "eval_perplexity": scores.perplexity,
        "eval_bits_per_byte": scores.bits_per_byte,
        "eval_token_accuracy": scores.token_accuracy,
    }


def _arguments(recipe: Recipe, plan: Plan, run_dir: RunDir) -> TrainingArguments:
    train = recipe.train
    return TrainingArguments(
        output_dir=str(run_dir.path),
        num_train_epochs=1,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        learning_rate=plan.learning_rate,
        max_grad_norm=plan.max_grad_norm,
        bf16=plan.precision == "bf16",
        fp16=plan.precision == "fp16",
        use_cpu=plan.device == "cpu",
        logging_strategy="no",
        eval_strategy="no",
        save_strategy="no",
        report_to=list(train.report_to) or "none",
        disable_tqdm=True,
        remove_unused_columns=False,
        logging_nan_inf_filter=False,
        average_tokens_across_devices=False,
        ddp_find_unused_parameters=False,
        log_level="error",
        seed=train.seed,
    )
