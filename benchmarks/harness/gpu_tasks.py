"""What benchmarks/gpu.py measures, each a generator of rows that runs in a process of its own."""

from __future__ import annotations

import contextlib
import gc
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.interleave import Rounds
from harness.limit import matmul_flops
from harness.own_steps import (
    Script,
    Timed,
    can_capture,
    documents_of,
    loop_of,
    peak_memory,
    plan_of,
    time_steps,
)
from harness.processes import Row, describe
from harness.shapes import SHAPES, build
from harness.variants import Bench, Documents, liger_steps, missing, quiet, reference_steps, transformers_steps
from tunesmith.step import StepSettings, prepare_model


@dataclass(frozen=True)
class Place:
    """Where and on what is measured."""

    device: str
    toy: bool
    documents: Documents

    @property
    def gemm(self) -> dict[str, Any]:
        return {"size": 64, "seconds": 0.001} if self.toy else {"size": 8192, "seconds": 0.2}

    def bf16_rate(self) -> float:
        rate = matmul_flops(torch.bfloat16, self.device, **self.gemm)
        self.forget()
        return rate

    def forget(self) -> None:
        """Memory and its peak as at the start."""
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def measure_machine(place: Place) -> Iterator[Row]:
    """Name, memory, rates of matrix products and of a copy."""
    from tunesmith.doctor.hardware import copy_rate

    cuda = place.device == "cuda"
    limit = {
        "bf16": matmul_flops(torch.bfloat16, place.device, **place.gemm),
        "fp32": matmul_flops(torch.float32, place.device, **place.gemm),
    }
    yield {
        "device": torch.cuda.get_device_name() if cuda else "cpu, toy models",
        "torch": torch.__version__,
        "memory_bytes": torch.cuda.mem_get_info()[1] if cuda else 0,
        "free_bytes": torch.cuda.mem_get_info()[0] if cuda else 0,
        "limit_flops": limit,
        "copy_bytes_per_second": copy_rate(place.device) if cuda else None,
    }


def measure_own(place: Place, model_name: str, way: str, sizes: tuple[Timed, ...], profiled: bool) -> Iterator[Row]:
    """tunesmith's loop at each step size, with CUDA graphs where the plan knows them and without."""
    documents = documents_of(place.documents)
    limit = place.bf16_rate()
    model = build(SHAPES[model_name], place.device)
    first = plan_of(way, sizes[0], documents, place.device)
    if first.dtype == "bfloat16" and place.device == "cuda":
        model.to(torch.bfloat16)
    model = prepare_model(model, StepSettings.of(first))
    for timed in sizes:
        for graphs in (True, False) if can_capture() else (False,):
            setting = f"{timed.tokens:,} tokens" + " graphs" * graphs
            yield from _one_size(place, model, (way, timed, graphs), profiled, documents, setting, limit)
            place.forget()


def _one_size(
    place: Place, model: Any, how: tuple[str, Timed, bool], profiled: bool, documents: Any, setting: str, limit: float
) -> Iterator[Row]:
    way, timed, graphs = how
    name = {"variant": f"tunesmith {way}", "setting": setting}
    try:
        with tempfile.TemporaryDirectory() as folder, quiet():
            plan = plan_of(way, timed, documents, place.device, graphs=graphs)
            script = Script(timed, profiled and place.device == "cuda")
            row, busy = time_steps(loop_of(model, plan, documents, Path(folder), script))
            yield name | row | {"limit_flops": limit}
            if busy is not None:
                yield {"variant": f"profile {way}", "setting": setting} | busy
    except Exception as error:
        yield name | {"failed": describe(error)}
        if "CUDA error" in str(error):  # nothing works in this process any more
            raise


def measure_padded(place: Place, model_name: str, kind: str, batches: tuple[int, ...], num_rows: int) -> Iterator[Row]:
    """transformers with dynamic padding over rows sorted by length, with Liger's kernels where `kind` is liger."""
    bench = Bench(SHAPES[model_name], place.device, bfloat16=place.device == "cuda")
    reason = missing("liger", bench) if kind == "liger" else None
    if reason is not None:
        yield {"variant": kind, "setting": "", "failed": reason}
        return
    limit = place.bf16_rate()
    for batch in batches:
        name = {"variant": kind, "setting": f"batch {batch}"}
        try:
            train = (liger_steps if kind == "liger" else transformers_steps)(bench, batch)
            yield name | _rounds(place, train, "sorted", max(num_rows, 2 * batch)) | {"limit_flops": limit}
        except torch.OutOfMemoryError:
            yield name | {"failed": "out of memory"}
        place.forget()


def measure_trl(place: Place, model_name: str, batches: tuple[int, ...], num_rows: int) -> Iterator[Row]:
    """TRL's SFTTrainer with packing, without checkpointing, in bf16."""
    from harness.variants import trl_steps

    bench = Bench(SHAPES[model_name], place.device, bfloat16=place.device == "cuda")
    reason = missing("trl", bench)
    if SHAPES[model_name].kind == "neo":
        reason = "packing feeds one flattened row, and GPT-Neo's causal buffer ends at its 2,048 positions"
    if reason is not None:
        yield {"variant": "trl packing", "setting": "", "failed": reason}
        return
    limit = place.bf16_rate()
    for batch in batches:
        name = {"variant": "trl packing", "setting": f"batch {batch}"}
        try:
            train = trl_steps(bench, best=True, batch=batch)
            yield name | _rounds(place, train, "random", num_rows) | {"limit_flops": limit}
        except torch.OutOfMemoryError:
            yield name | {"failed": "out of memory"}
        place.forget()


def measure_reference(place: Place, model_name: str, num_rows: int) -> Iterator[Row]:
    """The reference recipe: float32, one row padded to 2,048 tokens, eager attention, whole logits."""
    limit = place.bf16_rate()
    train = reference_steps(Bench(SHAPES[model_name], place.device))
    name = {"variant": "reference", "setting": "batch 1, padded to 2048"}
    yield name | _rounds(place, train, "random", num_rows) | {"limit_flops": limit}


def _rounds(place: Place, train: Any, order: str, num_rows: int) -> Row:
    """Rows a second over rounds of a peer's own steps, after one that warms up."""
    from statistics import median
    from time import perf_counter

    number = 1 if place.toy else 3
    rounds = Rounds(place.documents, min(num_rows, len(place.documents)), number)
    wait = torch.cuda.synchronize if place.device == "cuda" else (lambda: None)
    rates: list[tuple[float, float]] = []
    with quiet():
        for i in range(number + 1):
            documents = rounds.documents(order, i)
            getattr(train, "prepare", lambda documents: None)(documents)
            wait()
            begun = perf_counter()
            tokens = train(documents)
            wait()
            seconds = perf_counter() - begun
            rates += [(tokens / seconds, len(documents) / seconds)] if i else []
    found = {"tokens_per_second": median(r for r, _ in rates), "samples_per_second": median(s for _, s in rates)}
    return found | peak_memory()


def measure_large_lora(place: Place, name: str, timed: Timed) -> Iterator[Row]:
    """A few LoRA steps of a published shape whose random weights are made on the device, in bf16."""
    from transformers import AutoModelForCausalLM

    from tunesmith.forecast.shapes import find_shape

    documents = documents_of(place.documents)
    config = find_shape(name).config
    place.forget()
    with torch.device(place.device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.config.use_cache = False
    plan = plan_of("lora", timed, documents, place.device)
    model = prepare_model(model, StepSettings.of(plan))
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(quiet())
        loop = loop_of(model, plan, documents, Path(folder), Script(timed, profiled=False))
        row, _ = time_steps(loop)
    row["loss"] = loop.counts.loss_sum / loop.step
    yield {"variant": "tunesmith lora", "setting": f"{timed.tokens:,} tokens"} | row
