"""tunesmith's own training loop, timed in segments: what `tunesmith train` does between two evaluations."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from harness.processes import Row
from tunesmith import training
from tunesmith.data.tokens.documents import TokenizedDocuments
from tunesmith.data.tokens.steps import run_steps
from tunesmith.recipe import LoraSection, Recipe
from tunesmith.run.artefacts import Plan
from tunesmith.run.directory import RunDir
from tunesmith.run.observer import Silent
from tunesmith.run.recorder import Recorder
from tunesmith.run.signals import StopRequest

GRAPHS = "cuda_graphs"
"""The plan's field that says whether steps are captured as CUDA graphs."""
WAYS = {
    "full": {"method": "full", "dtype": "float32"},
    "bf16": {"method": "full", "dtype": "bfloat16"},
    "lora": {"method": "lora", "dtype": "bfloat16"},
}
SEGMENTS = 5
MAX_SECONDS = 4.0


@dataclass(frozen=True)
class Timed:
    """How steps of one size are timed: so many before, and in each of the segments."""

    tokens: int
    warm_up: int
    steps: int


@dataclass(frozen=True)
class _Data:
    """What training asks of prepared data."""

    train: TokenizedDocuments
    eval: TokenizedDocuments
    test: TokenizedDocuments


@dataclass(frozen=True)
class _NoSaves:
    """Stands in for checkpoints, whose writing is not timed here."""

    run_dir: RunDir

    def save(self, loop: Any) -> None: ...


class _Marks(StopRequest):
    """Ends a segment at a step, from where the loop then goes on."""

    loop: Any = None
    until = 0

    @property
    def requested(self) -> bool:
        return self.loop is not None and self.loop.step >= self.until

    def ask(self, reason: str) -> None: ...


class Noting(Silent):
    """Keeps what training says, such as that graphs are off."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def documents_of(arrays: Sequence[np.ndarray]) -> TokenizedDocuments:
    return TokenizedDocuments.from_lists([(ids.tolist(), None) for ids in arrays])


def can_capture() -> bool:
    return GRAPHS in Plan.model_fields and torch.cuda.is_available()


def plan_of(way: str, timed: Timed, documents: TokenizedDocuments, device: str, *, graphs: bool = False) -> Plan:
    """Steps of one pass each."""
    fed = np.asarray(documents.lengths, dtype=np.int64) - 1
    num_steps = timed.warm_up + SEGMENTS * timed.steps
    steps = run_steps(fed, timed.tokens, seed=7, epochs=1_000, max_steps=num_steps)
    values: dict[str, Any] = {
        **WAYS[way],
        "precision": "bf16" if device == "cuda" else "fp32",
        "optimizer": "adamw",
        "learning_rate": 1e-5,
        "schedule": "constant",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "epochs": 1_000.0,
        "num_steps": num_steps,
        "tokens_per_step": timed.tokens,
        "micro_batch_tokens": max(int(fed[step].sum()) for step in steps),
        "max_length": 1024,
        "gradient_checkpointing": False,
        "compile": False,
        "lora": LoraSection().model_dump() if way == "lora" else None,
        "eval_every": 1_000_000,
        "save_every": 1_000_000,
        "save_keep": 1,
        "rehearse": False,
        "report_to": (),
        "seed": 7,
        "device": device,
        "num_processes": 1,
        "reasons": {},
        "predicted": None,
    }
    return Plan.parse(values | ({GRAPHS: graphs} if GRAPHS in Plan.model_fields else {}), "the benchmark's plan")


def loop_of(model: Any, plan: Plan, documents: TokenizedDocuments, folder: Path) -> Any:
    """The loop that trains `model`, with neither evaluations nor saves."""
    nothing, run_dir = TokenizedDocuments.from_lists([]), RunDir(folder)
    recipe = Recipe(model={"name": "random weights"}, data={"path": "rows", "text": "text"})
    data, marks = _Data(documents, nothing, nothing), _Marks("again")
    made: Any = {"data": data, "source": None, "tokenizer": None, "run_dir": run_dir, "checkpoint": None}
    job = training.Job(recipe=recipe, plan=plan, fingerprints={"data": "", "model": ""}, **made)
    loop: Any = training._loop(job, model, marks, Recorder(run_dir, plan.num_steps, Noting()))
    loop.saves, marks.loop = _NoSaves(run_dir), loop
    return loop


def run_to(loop: Any, step: int) -> tuple[float, int, int]:
    """Train up to `step`: seconds, supervised tokens and documents."""
    before = replace(loop.counts)
    _wait()
    begun = time.perf_counter()
    loop.stop.until = step
    with getattr(loop, "on_stream", nullcontext)():
        loop.run()
    _wait()
    seconds = time.perf_counter() - begun
    return seconds, loop.counts.tokens - before.tokens, loop.counts.samples - before.samples


def time_steps(loop: Any, timed: Timed) -> Row:
    """Warm up, then segments until they are done or took MAX_SECONDS; rates are medians of the segments."""
    run_to(loop, timed.warm_up)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    found: list[tuple[float, int, int]] = []
    while len(found) < SEGMENTS and sum(seconds for seconds, _, _ in found) < MAX_SECONDS:
        found.append(run_to(loop, loop.step + timed.steps))
    row: Row = {
        "tokens_per_second": median(tokens / seconds for seconds, tokens, _ in found),
        "samples_per_second": median(samples / seconds for seconds, _, samples in found),
        "step_ms": 1e3 * median(seconds for seconds, _, _ in found) / timed.steps,
        "said": loop.recorder.observer.notes,
    }
    return row | peak_memory()


def peak_memory() -> Row:
    if not torch.cuda.is_available():
        return {"peak_bytes": None, "reserved_bytes": None}
    return {"peak_bytes": torch.cuda.max_memory_allocated(), "reserved_bytes": torch.cuda.max_memory_reserved()}


def profile_steps(loop: Any, timed: Timed) -> Row:
    """Kernels of a step and the time in which at least one ran; against the wall of steps that no profiler slows."""
    from torch.profiler import ProfilerActivity, profile

    seconds, _, _ = run_to(loop, loop.step + timed.steps)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        run_to(loop, loop.step + timed.steps)
    spans = [
        (event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
    ]
    wall_ms, busy_ms = 1e3 * seconds / timed.steps, union(spans) / 1e3 / timed.steps
    return {
        "kernels": len(spans) / timed.steps,
        "step_ms": wall_ms,
        "busy_ms": busy_ms,
        "busy_share": busy_ms / wall_ms,
    }


def union(spans: Sequence[tuple[float, float]]) -> float:
    """Length that is covered by at least one span."""
    total, reached = 0.0, -np.inf
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
