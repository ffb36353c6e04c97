"""Training: the only path from a Plan to a tuned model, whatever the method, the device or the number of processes.

trainer.py      one optimizer step: micro-batches, token-weighted loss, retry after out of memory
optimizer.py    AdamW, its state made before step 1
rehearsal.py    the largest batch tried before step 1, then rolled back
checkpoint.py   checkpoints that are whole or absent; state.py holds their content
resume.py       whether a run may go on, and from which checkpoint
lock.py numbers.py memory.py               one writer, bad numbers, out of memory
progress.py card.py                        what a person sees; the model card
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunesmith.errors import Stopped
from tunesmith.recipe import Recipe
from tunesmith.run.artefacts import Plan
from tunesmith.run.directory import RESULT, RunDir

if TYPE_CHECKING:
    from rich.console import Console

    from tunesmith.data import Data
    from tunesmith.models.find import ModelSource
    from tunesmith.models.tokenizer import TextTokenizer
    from tunesmith.plan import Measured
    from tunesmith.run.signals import StopRequest
    from tunesmith.show.progress import Progress
    from tunesmith.training.checkpoint import Checkpoint
    from tunesmith.training.trainer import FlatTrainer


@dataclass(frozen=True)
class Job:
    """Everything that training needs, decided before it starts."""

    recipe: Recipe
    plan: Plan
    source: ModelSource
    tokenizer: TextTokenizer
    data: Data
    run_dir: RunDir
    fingerprints: dict[str, str]
    """Of data and model; kept in every checkpoint."""
    checkpoint: Checkpoint | None
    """Where the run goes on; None at its beginning."""


def train(job: Job, stop: StopRequest, console: Console) -> dict[str, Any]:
    """Train from the beginning, or from `job.checkpoint`, to the end. Returns the content of result.json.

    Raises Stopped when a signal ended the run early (a checkpoint was saved), TrainingError when it cannot go on.
    """
    from tunesmith.show.progress import Progress

    checkpoint = job.checkpoint
    with stop.at_once():
        model = build_model(job)
    num_steps = job.plan.num_steps
    with Progress(job.run_dir, num_steps, console) as progress:
        trainer = _trainer(job, model, stop, progress)
        _banner(job, trainer, progress)
        job.run_dir.keep_metrics_until(checkpoint.step if checkpoint else -1)
        if checkpoint is None:
            _begin(job, trainer, stop)
        progress.start(checkpoint.step if checkpoint else 0)
        if not stop.requested:
            trainer.train(resume_from_checkpoint=str(checkpoint.path) if checkpoint else None)
        result = _result(job, trainer, stop)
        if result["stopped"] is not None:
            job.run_dir.write_json(RESULT, result)
            raise Stopped(f"{result['stopped']} at step {result['steps']}/{num_steps}", stop.resume)
        _save(job, trainer, result)
    job.run_dir.write_json(RESULT, result)
    return result


def calibrate(job: Job, console: Console) -> list[Measured]:
    """Time a few real optimizer steps of a job; `job.run_dir` may be a temporary one. About 13 steps."""
    from tunesmith.run.signals import StopRequest
    from tunesmith.show.progress import Progress
    from tunesmith.training.rehearsal import time_steps

    progress = Progress(job.run_dir, job.plan.num_steps, console)
    return time_steps(_trainer(job, build_model(job), StopRequest("the same command"), progress))


def _trainer(job: Job, model: Any, stop: StopRequest, progress: Progress) -> FlatTrainer:
    from tunesmith.training.trainer import FlatTrainer

    return FlatTrainer(
        model,
        recipe=job.recipe,
        plan=job.plan,
        documents=job.data.train,
        eval_documents=job.data.eval,
        run_dir=job.run_dir,
        stop=stop,
        progress=progress,
        fingerprints=job.fingerprints,
    )


def build_model(job: Job) -> Any:
    """The model on its device, made fast, with its adapter; in training mode."""
    import torch

    from tunesmith import fast
    from tunesmith.models.adapters import attach_lora
    from tunesmith.models.load import load_model

    torch.manual_seed(job.recipe.train.seed)
    model = load_model(job.source, dtype=job.plan.dtype, device=job.plan.device, quantize=job.plan.method == "qlora")
    fast.apply(model, compile=job.plan.compile)
    if job.plan.method in ("lora", "qlora"):
        model = attach_lora(model, job.recipe.lora, job.plan.method)
        fast.fuse_adapters(model)
    if job.plan.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if job.plan.method != "full":
            model.enable_input_require_grads()
    return model.train()


def _begin(job: Job, trainer: FlatTrainer, stop: StopRequest) -> None:
    """What happens once, before step 1: prove the batches right, rehearse the largest, score the base model."""
    from tunesmith.selftest import check_invariance
    from tunesmith.training.memory import release_memory
    from tunesmith.training.rehearsal import rehearse

    check_invariance(trainer.model, job.data.train, precision=job.plan.precision)
    if job.recipe.train.rehearse:
        rehearse(trainer)
    release_memory()
    if not stop.requested:
        trainer.run_state.base_eval = trainer.evaluate()


def _banner(job: Job, trainer: FlatTrainer, progress: Any) -> None:
    from tunesmith.training.trainer import trained_tensors

    plan = job.plan
    trained = sum(tensor.numel() for tensor in trained_tensors(trainer.model).values())
    total = sum(parameter.numel() for parameter in trainer.model.parameters())
    data = job.data
    progress.note(
        f"model      {job.source.name}: {total / 1e6:,.1f}M parameters, {trained / 1e6:,.1f}M trained ({plan.method})\n"
        f"data       {len(data.train):,} training and {len(data.eval):,} held-out documents, "
        f"{data.train.num_targets:,} supervised tokens an epoch\n"
        f"steps      {plan.num_steps:,} of {plan.tokens_per_step:,} tokens: {plan.reasons['tokens_per_step']}\n"
        f"precision  {plan.precision} on {plan.device}, {plan.optimizer}, "
        f"learning rate {plan.learning_rate:g} ({plan.schedule})\n"
        f"run        {job.run_dir.path}"
    )


def _result(job: Job, trainer: FlatTrainer, stop: StopRequest) -> dict[str, Any]:
    from tunesmith.training.memory import peak_bytes

    state, steps = trainer.run_state, trainer.state.global_step
    seconds = trainer.training_seconds()
    finished = steps >= job.plan.num_steps and not state.eval_is_pending
    reason = None if finished else (stop.reason or "stopped")
    base = state.base_eval
    return {
        "train_loss": state.loss_sum / steps if steps else None,
        "eval_loss": state.last_eval.get("eval_loss"),
        "eval_loss_base": base.get("eval_loss"),
        "eval_perplexity": state.last_eval.get("eval_perplexity"),
        "eval_perplexity_base": base.get("eval_perplexity"),
        "eval_bits_per_byte": state.last_eval.get("eval_bits_per_byte"),
        "eval_bits_per_byte_base": base.get("eval_bits_per_byte"),
        "eval_token_accuracy": state.last_eval.get("eval_token_accuracy"),
        "eval_token_accuracy_base": base.get("eval_token_accuracy"),
        "best_eval_loss": state.best_eval_loss,
        "best_step": state.best_step,
        "train_tokens": state.train_tokens,
        "train_seconds": seconds,
        "tokens_per_second": state.train_tokens / seconds if seconds > 0 else None,
        "samples_per_second": state.train_samples / seconds if seconds > 0 else None,
        "total_seconds": trainer.elapsed(),
        "save_seconds": state.save_seconds,
        "eval_seconds": state.eval_seconds,
        "peak_bytes": peak_bytes(trainer.args.device),
        "steps": steps,
        "stopped": reason,
        "events": state.events,
    }


def _save(job: Job, trainer: FlatTrainer, result: dict[str, Any]) -> None:
    """Write model/ so that plain transformers loads it."""
    from tunesmith.models.card import model_card
    from tunesmith.models.load import save_model

    if not trainer.is_world_process_zero():
        return
    started = time.monotonic()
    card = model_card(job.recipe, job.source, job.data.audit, result)
    save_model(trainer.accelerator.unwrap_model(trainer.model), job.tokenizer, job.run_dir.model, card)
    trainer.progress.note(f"saved {job.run_dir.model} in {time.monotonic() - started:.0f} s")


__all__ = ["Job", "calibrate", "train"]
