"""Checkpoints of a run: what they hold, and how a run goes on from one."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tunesmith.run.artefacts import CheckpointInfo, EvalScores, Event, JsonObject, Plan
from tunesmith.run.directory import RunDir
from tunesmith.training.checkpoints.best import BEST_STATE, TEMPORARY, BestWeights
from tunesmith.training.checkpoints.checkpoint import Checkpoint, save_checkpoint
from tunesmith.training.checkpoints.mirror import Mirror
from tunesmith.training.checkpoints.shards import parted
from tunesmith.training.checkpoints.state import (
    environment,
    load_optimizer,
    load_rng_state,
    load_trainable,
    load_tree,
    rng_state,
    save_tree,
)
from tunesmith.training.checkpoints.writers import Writers
from tunesmith.training.clock import Spent
from tunesmith.training.held_out import ScoresSoFar
from tunesmith.training.processes.sharding import trained

if TYPE_CHECKING:
    from tunesmith.training.loop import Loop

MODEL_STATE = "model.safetensors"
OPTIMIZER_STATE = "optimizer.safetensors"
PROGRESS_STATE = "progress.safetensors"
RANDOM_STATE = "rng.safetensors"


@dataclass(frozen=True)
class Saves:
    """Where checkpoints go, and what each says of its run. `info` lacks what only a step knows: its scores."""

    run_dir: RunDir
    plan: Plan
    info: CheckpointInfo
    mirror: Mirror | None = None
    """Of the process that writes."""

    @property
    def best(self) -> BestWeights:
        """Beside the checkpoints."""
        return BestWeights(self.run_dir.checkpoints)

    @classmethod
    def of(cls, run_dir: RunDir, plan: Plan, *, data: str, model: str, recipe: JsonObject) -> Saves:
        """data, model: fingerprints. recipe: as it was asked."""
        info = CheckpointInfo(data=data, model=model, recipe=recipe, plan=plan, environment=environment(), eval=None)
        return cls(run_dir, plan, info)

    def save(self, loop: Loop) -> None:
        """Write step-N whole or not at all; all processes call. Raises RunError when the disk is full."""
        state, parts = parted(loop.optimizer.state_dict())
        writers = Writers(loop.team, {MODEL_STATE: trained(loop.model), OPTIMIZER_STATE: parts})
        writers.together(lambda: self._save(loop, writers, state))

    def keep_best(self, loop: Loop) -> None:
        """Keep the weights of this step as the best; all processes call. Raises RunError when the disk is full."""
        writers = Writers(loop.team, {TEMPORARY: trained(loop.model)})
        writers.together(lambda: self.best.write(loop.step, writers.write))

    def _save(self, loop: Loop, writers: Writers, optimizer: JsonObject) -> None:
        so_far = loop.held_out.so_far
        checkpoint = save_checkpoint(
            self.run_dir.checkpoints,
            loop.step,
            lambda folder: self.write_state(loop, writers, optimizer, folder),
            info=self.info.model_copy(update={"eval": so_far.last}).to_json(),
            keep=self.plan.save_keep,
            best_step=so_far.best_step,
            required_bytes=self.num_bytes(loop.model),
        )
        if self.mirror is not None:
            self.mirror.push(checkpoint)

    def write_state(self, loop: Loop, writers: Writers, optimizer: JsonObject, folder: Path) -> None:
        """Weights, optimizer, random numbers, and where the run stands."""
        self._write_weights(loop, writers, folder)
        if loop.team.shards:
            writers.write(folder / OPTIMIZER_STATE)
        save_tree(optimizer, folder / OPTIMIZER_STATE)
        save_tree(rng_state(), folder / RANDOM_STATE)
        so_far = loop.held_out.so_far
        of_steps = {name: getattr(so_far, name) for name in ("base", "last", "best")}
        progress = {
            "counts": asdict(loop.counts),
            "spent": asdict(loop.clock.spent()),
            "scores": {
                **vars(so_far),
                **{name: scores and scores.to_json() for name, scores in of_steps.items()},
            },
            "micro_batch_tokens": loop.recovery.micro_batch_tokens,
            "events": [event.to_json() for event in loop.recovery.events],
            "scaler": loop.scaler.state_dict(),
        }
        save_tree(progress, folder / PROGRESS_STATE)

    def _write_weights(self, loop: Loop, writers: Writers, folder: Path) -> None:
        """Those of this step, and the best where they are kept and are others."""
        kept = loop.held_out.so_far.best_step if loop.held_out.so_far.best else None
        if kept == loop.step and self.best.put_into(folder, MODEL_STATE, kept):
            return
        writers.write(folder / MODEL_STATE)
        if kept is not None:
            self.best.put_into(folder, BEST_STATE, kept)

    def restore(self, loop: Loop, checkpoint: Checkpoint) -> None:
        """Put the run where it stood, bit for bit. Raises RunError when the checkpoint is of another model."""
        folder = checkpoint.path
        load_trainable(loop.model, folder / MODEL_STATE)
        load_optimizer(loop.optimizer, folder / OPTIMIZER_STATE)
        progress = load_tree(folder / PROGRESS_STATE)
        scores = progress["scores"]
        for name in ("base", "last", "best"):
            scores[name] = EvalScores(**scores[name]) if scores.get(name) else None
        loop.step = checkpoint.step
        loop.counts = replace(loop.counts, **progress["counts"])
        loop.held_out.so_far = ScoresSoFar(**scores)
        self._restore_best(loop, checkpoint)
        loop.recovery.micro_batch_tokens = progress["micro_batch_tokens"]
        loop.recovery.events = [Event(**event) for event in progress["events"]]
        loop.scaler.load_state_dict(progress["scaler"])
        loop.clock.restore(Spent(**progress["spent"]))
        load_rng_state(folder / RANDOM_STATE)

    def _restore_best(self, loop: Loop, checkpoint: Checkpoint) -> None:
        so_far = loop.held_out.so_far
        if not loop.keeps_best:
            so_far.best = None
        elif so_far.best_step is not None:
            known = so_far.best is not None or so_far.best_step == checkpoint.step
            if loop.team.is_first:
                known = known and self.best.take_from(checkpoint, so_far.best_step, MODEL_STATE)
            if loop.team.agree(not known)[0]:
                so_far.forget_best()
                loop.recorder.note(
                    "the best weights up to this checkpoint were not kept: the best is of the steps to come"
                )
            elif so_far.best is None:
                so_far.best = so_far.last

    def num_bytes(self, model: torch.nn.Module) -> int:
        """Bytes that one checkpoint takes on disk: trained weights and the optimizer's two moments, all of one type."""
        trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
        return 3 * trained + 1_000_000
