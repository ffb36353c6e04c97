"""tunesmith's own training loop, timed in segments: what `tunesmith train` does between two evaluations."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
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

    def save(self, *arguments: Any) -> None: ...


class Script(StopRequest):
    """Measures one run of the loop, which asks between two steps whether it should stop: it does when this is done.

    Steps before are not timed; rates are medians of the segments that follow, until they took MAX_SECONDS. Kernels of
    the last one are looked at where `profiled`.
    """

    def __init__(self, timed: Timed, profiled: bool) -> None:
        super().__init__("again")
        self.timed, self.profiled = timed, profiled
        self.loop: Any = None
        self.found: list[tuple[float, int, int]] = []
        """Seconds, supervised tokens and documents of each segment."""
        self.spans: list[tuple[float, float]] = []
        """When something ran on the GPU, in microseconds."""
        self._script, self._until = self._measure(), 0

    @property
    def requested(self) -> bool:
        while self.loop is not None and self._until is not None and self.loop.step >= self._until:
            _wait()
            self._until = next(self._script, None)
        return self._until is None

    def ask(self, reason: str) -> None: ...

    def _measure(self) -> Generator[int, None, None]:
        """Gives the step at which it goes on."""
        yield self.timed.warm_up
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        while len(self.found) < SEGMENTS and sum(seconds for seconds, _, _ in self.found) < MAX_SECONDS:
            before, begun = replace(self.loop.counts), time.perf_counter()
            yield self.loop.step + self.timed.steps
            seconds, counts = time.perf_counter() - begun, self.loop.counts
            self.found.append((seconds, counts.tokens - before.tokens, counts.samples - before.samples))
        if self.profiled:
            from torch.profiler import ProfilerActivity, profile

            self.memory = peak_memory()
            with profile(activities=[ProfilerActivity.CUDA]) as profiler:
                yield self.loop.step + self.timed.steps
            self.spans = [
                (event.time_range.start, event.time_range.end)
                for event in profiler.events()
                if event.device_type == torch.autograd.DeviceType.CUDA
            ]


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
    num_steps = timed.warm_up + (SEGMENTS + 2) * timed.steps
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


def loop_of(model: Any, plan: Plan, documents: TokenizedDocuments, folder: Path, script: Script) -> Any:
    """The loop that trains `model`, with neither evaluations nor saves."""
    nothing, run_dir = TokenizedDocuments.from_lists([]), RunDir(folder)
    recipe = Recipe(model={"name": "random weights"}, data={"path": "rows", "text": "text"})
    made: Any = {"source": None, "tokenizer": None, "run_dir": run_dir, "checkpoint": None}
    made |= {"data": _Data(documents, nothing, nothing), "fingerprints": {"data": "", "model": ""}}
    job = training.Job(recipe=recipe, plan=plan, **made)
    loop: Any = training._loop(job, model, script, Recorder(run_dir, plan.num_steps, Noting()))
    loop.saves, script.loop = _NoSaves(run_dir), loop
    return loop


def time_steps(loop: Any) -> tuple[Row, Row | None]:
    """What the loop's script measures: speed and memory, and of a profile how busy the GPU was."""
    with getattr(loop, "on_stream", nullcontext)():
        loop.run()
    script, number = loop.stop, loop.stop.timed.steps
    step_ms = 1e3 * median(seconds for seconds, _, _ in script.found) / number
    row: Row = {
        "tokens_per_second": median(tokens / seconds for seconds, tokens, _ in script.found),
        "samples_per_second": median(samples / seconds for seconds, _, samples in script.found),
        "step_ms": step_ms,
        "said": loop.recorder.observer.notes,
    }
    if not script.profiled:
        return row | peak_memory(), None
    busy_ms = union(script.spans) / 1e3 / number
    busy: Row = {"kernels": len(script.spans) / number, "step_ms": step_ms, "busy_ms": busy_ms}
    return row | script.memory, busy | {"busy_share": busy_ms / step_ms}


def peak_memory() -> Row:
    if not torch.cuda.is_available():
        return {"peak_bytes": None, "reserved_bytes": None}
    return {"peak_bytes": torch.cuda.max_memory_allocated(), "reserved_bytes": torch.cuda.max_memory_reserved()}


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
