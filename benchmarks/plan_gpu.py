"""The forecast of peak memory against real training steps on one GPU.

    python benchmarks/plan_gpu.py [--out plan_gpu.json] [--models NAME...] [--forecasts FILE] [--toy]
    python benchmarks/plan_gpu.py --forecast-only --out forecasts.json        # needs no GPU

Each configuration runs in a process of its own, several side by side: two optimizer steps and an evaluation, weights
random, no data. Its memory is capped so that the forecast only just counts as "fits"; what then runs out of memory is
a broken promise. Measured is torch.cuda.max_memory_reserved, from the loaded model on, the CUDA context not counted on
either side. --toy runs the same program on toy models on a CPU: the forecast against what the real steps allocate.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # a process that asked CUDA itself cannot be forked

import numpy as np
import torch
from harness.processes import Row, Runner, Task
from harness.shapes import SHAPES, build

BILLIONS = {
    "EleutherAI/gpt-neo-125m": 0.125,
    "EleutherAI/gpt-neo-1.3B": 1.32,
    "EleutherAI/gpt-neo-2.7B": 2.65,
    "HuggingFaceTB/SmolLM2-135M": 0.135,
    "HuggingFaceTB/SmolLM2-360M": 0.362,
    "meta-llama/Llama-3.2-1B": 1.24,
}
"""Weights of each model."""
MODELS = list(BILLIONS)
TOY_MODELS = ["toy-neo", "toy-llama"]
WAYS = [
    # method, precision, checkpointing, tokens of a document, accumulates
    ("full", "bf16", False, 512, False),
    ("full", "bf16", True, 2048, False),
    ("full", "bf16", True, 128, True),
    ("full", "fp32", True, 512, False),
    ("lora", "bf16", False, 1024, False),
    ("lora", "bf16", True, 2048, True),
]
"""Of every model: 36 configurations."""
TOKENS_PER_PASS = 4096
TOY_SCALE = 32
WORKERS = 8
CASE_SECONDS = 15
CONTEXT_GIGABYTES = 1.0
ROUGHLY = {"full": (18.0, 6.0), "lora": (3.0, 6.0)}
"""Bytes a weight, and gigabytes besides, that are kept free for a case which was not forecast before."""


@dataclass(frozen=True)
class Case:
    """One configuration. A micro-batch holds TOKENS_PER_PASS tokens in documents of `length`."""

    model: str
    method: str
    precision: str
    checkpointing: bool
    length: int
    accumulates: bool

    @property
    def documents(self) -> tuple[int, ...]:
        scale = TOY_SCALE if self.model in SHAPES else 1
        return (self.length // scale,) * (TOKENS_PER_PASS // self.length)

    @property
    def name(self) -> str:
        way = f"{self.method} {self.precision}" + " checkpointing" * self.checkpointing
        return f"{self.model} {way}{' accumulating' * self.accumulates} {self.length}"

    def room(self, predicted: int | None) -> float:
        """Gigabytes of the device to keep free for its process."""
        if predicted is not None:
            return 1.15 * predicted / 1e9 + CONTEXT_GIGABYTES
        a_weight, besides = ROUGHLY[self.method]
        return a_weight * BILLIONS.get(self.model, 0.0) + besides + CONTEXT_GIGABYTES


def step_of(case: Case, device: str) -> Any:
    """What the planner calls this configuration. Frozen weights of a bf16 run are held in bf16, as in training."""
    from tunesmith.forecast.tracing.step import Step

    frozen = case.method == "lora" and case.precision == "bf16"
    return Step(
        micro_batch=case.documents,
        accumulates=case.accumulates,
        method=case.method,
        precision=case.precision,
        dtype="bfloat16" if frozen else "float32",
        gradient_checkpointing=case.checkpointing,
        device=device,
        flash=device == "cuda",  # of an Ampere or newer card
    )


def config_of(case: Case) -> Any:
    from tunesmith.forecast.shapes import find_shape

    return build(SHAPES[case.model], "meta").config if case.model in SHAPES else find_shape(case.model).config


def forecast(case: Case, device: str) -> int:
    """Bytes: reserved on a GPU, allocated on a CPU."""
    from tunesmith.forecast.memory import forecast_memory
    from tunesmith.forecast.tracing.step import trace_step

    memory = forecast_memory(trace_step(config_of(case), step_of(case, device)), device, base_bytes=0)
    return memory.reserved_bytes if device == "cuda" else memory.allocated_bytes


# ---------------------------------------------------------------------------------------------- in a process of its own


def measure(case: Case, device: str, cap_bytes: int | None) -> dict[str, Any]:
    """Bytes that the real steps took, or that memory ran out."""
    if device == "cpu":
        return {"bytes": _allocated(case), "out_of_memory": False, "retries": 0}
    if cap_bytes is not None:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, cap_bytes / total))
    try:
        model, batch, step = _prepare(case, device)
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        _train(model, batch, step)
    except torch.OutOfMemoryError:
        return {"bytes": None, "out_of_memory": True, "retries": None}
    retries = torch.cuda.memory_stats().get("num_alloc_retries", 0)
    return {"bytes": torch.cuda.max_memory_reserved(), "out_of_memory": False, "retries": retries}


def _prepare(case: Case, device: str) -> tuple[Any, Any, Any]:
    """The real model with random weights on the device, made ready as for training; a batch; the step."""
    from transformers import AutoModelForCausalLM

    from tunesmith.forecast.tracing import simulate
    from tunesmith.step import DTYPES, prepare_model

    step = step_of(case, device)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config_of(case), dtype=DTYPES[step.dtype])
    model.config.use_cache = False
    model.get_input_embeddings().padding_idx = None
    batch = simulate.traced_batch(step.micro_batch).to(device)
    return prepare_model(model, step.settings), batch, step


def _train(model: Any, batch: Any, step: Any) -> None:
    """Two optimizer steps and an evaluation, as training does them."""
    from tunesmith.step import autocast, clip_gradients, make_optimizer

    device = batch.input_ids.device.type
    optimizer = make_optimizer(model.parameters(), step.settings)
    for _ in range(2):
        for _ in range(2 if step.accumulates else 1):
            with autocast(step.precision, device):
                loss = model(flat=batch, denominator=batch.num_targets).loss
            loss.backward()
            del loss
        clip_gradients(model.parameters(), step.settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    with torch.no_grad(), autocast(step.precision, device):
        model(flat=batch, denominator=batch.num_targets)
    model.train()


def _allocated(case: Case) -> int:
    """Most bytes that the real steps hold at a time on a CPU, weights included."""
    from tunesmith.forecast.tracing.trace import Trace

    model, batch, step = _prepare(case, "cpu")
    with Trace() as trace:
        trace.hold((*model.parameters(), *model.buffers()), "weights")
        trace.hold((batch.input_ids, batch.position_ids, batch.targets, batch.cu_seqlens), "temporary")
        _train(model, batch, step)
    return trace.log.peak_bytes()


# ----------------------------------------------------------------------------------------------------------- the whole


def run_case(case: Case, device: str, predicted: int | None = None) -> Iterator[Row]:
    """Forecast, and the real steps: with capped memory first, and free when that runs out."""
    from tunesmith.forecast.forecaster import FITS

    torch.set_num_threads(1)
    with quiet():
        predicted = forecast(case, device) if predicted is None else predicted
        result = measure(case, device, int(predicted / FITS) if device == "cuda" else None)
        broken = result["out_of_memory"]
        if broken:
            torch.cuda.set_per_process_memory_fraction(1.0)
            result = measure(case, device, None)
    error = None if result["bytes"] is None else predicted / result["bytes"] - 1
    row = {**asdict(case), "predicted_bytes": predicted, "measured_bytes": result["bytes"], "error": error}
    yield {**row, "fits_but_ran_out": broken, "retries": result["retries"]}


def write_forecasts(cases: list[Case], device: str, out: Path) -> None:
    """The forecast of every case, by its name."""
    found = {}
    for case in cases:
        with quiet():
            found[case.name] = forecast(case, device)
        print(f"{case.name:<60}{found[case.name] / 1e9:>9.3f} GB", flush=True)
    out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def read_forecasts(path: Path | None) -> dict[str, int]:
    """What `write_forecasts` wrote; nothing without a file."""
    found: dict[str, int] = json.loads(path.read_text(encoding="utf-8")) if path is not None else {}
    return found


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Median and 95th percentile of the error's size, the worst, and how many promises were broken."""
    errors = [abs(row["error"]) for row in rows if row["error"] is not None]
    return {
        "configurations": len(rows),
        "measured": len(errors),
        "median_error": float(np.median(errors)) if errors else None,
        "p95_error": float(np.percentile(errors, 95)) if errors else None,
        "worst_error": max(errors, default=None),
        "fits_but_ran_out": sum(row["fits_but_ran_out"] for row in rows),
    }


def print_row(row: dict[str, Any]) -> None:
    took = "out of memory" if row["measured_bytes"] is None else f"{row['measured_bytes'] / 1e9:.3f}"
    error = "-" if row["error"] is None else f"{row['error']:+.2%}"
    way = f"{row['method']} {row['precision']}" + " checkpointing" * row["checkpointing"]
    way += " accumulating" * row["accumulates"]
    note = "   ran out though it fits" if row["fits_but_ran_out"] else ""
    print(f"{row['model']:<28}{way:<36}{row['length']:>6}{row['predicted_bytes'] / 1e9:>11.3f}", end="")
    print(f"{took:>15}{error:>9}{note}", flush=True)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/plan_gpu.json"), help="where the JSON goes")
    parser.add_argument("--models", nargs="+", choices=[*MODELS, *TOY_MODELS], help="only these")
    parser.add_argument("--forecast-only", action="store_true", help="write the forecasts alone, on any machine")
    parser.add_argument("--forecasts", type=Path, help="what --forecast-only wrote, instead of computing them again")
    parser.add_argument("--toy", action="store_true", help="toy models on a CPU")
    options = parser.parse_args()
    device = "cpu" if options.toy else "cuda"
    models = options.models or (TOY_MODELS if options.toy else MODELS)
    cases = [Case(model, *way) for model in models for way in WAYS]
    if options.forecast_only:
        write_forecasts(cases, device, options.out)
        return
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device here. --toy runs on a CPU, --forecast-only anywhere.")
    compare(cases, device, options)


def compare(cases: list[Case], device: str, options: argparse.Namespace) -> None:
    """Every case, side by side in processes of their own; the table and the JSON."""
    started, known = time.monotonic(), read_forecasts(options.forecasts)
    tasks = [
        Task(case.name.replace("/", "-"), run_case, (case, device, predicted), CASE_SECONDS, case.room(predicted))
        for case in cases
        for predicted in [known.get(case.name)]
    ]
    print(f"torch {torch.__version__}\n{'model':<28}{'way':<36}{'length':>6}{'planned GB':>11}{'took GB':>15}")
    rows: list[Row] = []

    def on_row(task: Task, row: Row) -> None:
        if row.get("failed"):
            raise SystemExit(f"{task.name}: {row['failed']}")
        rows.append(row)
        print_row(row)

    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(Path(folder), on_row, budget=float("inf"))
        gigabytes, workers = (free_gigabytes(), WORKERS) if device == "cuda" else (float("inf"), 1)
        runner.side_by_side(tasks, gigabytes=gigabytes, workers=workers)
    found = summary(rows)
    print("  ".join(f"{key} {value:.4g}" for key, value in found.items() if value is not None))
    results = {"torch": torch.__version__, **found, "rows": rows, "seconds": time.monotonic() - started}
    options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(f"{results['seconds'] / 60:.1f} minutes; written to {options.out}")


def free_gigabytes() -> float:
    """Memory of the first GPU that nobody holds, by the driver, which leaves this process without a context."""
    from tunesmith.doctor.hardware import find_gpus

    return find_gpus()[0].free_bytes / 1e9 - CONTEXT_GIGABYTES


if __name__ == "__main__":
    main()
