"""Everything that is claimed of one GPU, in six minutes, against the setups people would use instead.

    python benchmarks/gpu.py [--budget 360] [--only NAME...] [--rows FILE] [--out gpu.json] [--toy] [--list]

Every variant runs in a process of its own, so that one that crashes is a row with its reason. Rows are printed and
appended to OUT.jsonl as they come; OUT and the tables follow at the end. What does not fit in the budget is left out,
the least important first, and named. --toy runs the same program on toy models on a CPU; its figures mean nothing.
"of limit" is the share of the bfloat16 rate that matrix products of 8192 x 8192 reached in the same process.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # a process that asked CUDA itself cannot be forked

import psutil
import torch
from harness.commands import Commands, measure_commands, measure_resume
from harness.documents import default_rows, read_texts, save_gpt2_tokenizer, tokenize
from harness.gpu_tables import print_row, print_tables, ratios
from harness.gpu_tasks import (
    Place,
    measure_large_lora,
    measure_machine,
    measure_own,
    measure_padded,
    measure_reference,
    measure_trl,
)
from harness.own_steps import Timed
from harness.processes import SLACK_SECONDS, Row, Runner, Task
from harness.shapes import SHAPES, flops_per_token
from plan_gpu import CASE_SECONDS, WAYS, Case, read_forecasts, run_case, summary
from plan_gpu import MODELS as PLANNED
from plan_gpu import TOY_MODELS as TOY_PLANNED

SMALL, LARGE = Timed(1024, 16, 10), Timed(16384, 4, 3)
BATCHES = (32, 128, 512)
PRELOADED = (
    "peft",
    "transformers.models.gpt_neo.modeling_gpt_neo",
    "transformers.models.llama.modeling_llama",
    "transformers.models.gptj.modeling_gptj",
    "transformers.models.falcon.modeling_falcon",
    "tunesmith.forecast.memory",
    "tunesmith.forecast.tracing.step",
)
"""Loaded once, before processes are forked."""
WORKERS = 8
SPARE_GIGABYTES = 6.0


def main() -> None:
    options = parse_arguments()
    device = "cpu" if options.toy else "cuda"
    with tempfile.TemporaryDirectory(prefix="tunesmith-gpu-") as folder:
        place = Place(device, options.toy, load_documents(options.rows, Path(folder)))
        alone, beside = tasks_of(options, place, Path(folder))
        if options.list:
            for task in (*alone, *beside):
                print(f"{task.seconds:>5.0f} s  {task.name}")
            return
        preload()
        write_results(options, *measure(options, alone, beside, Path(folder)))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=360.0, help="seconds for everything; default 360")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these tasks; * stands for anything")
    parser.add_argument("--rows", type=Path, default=default_rows(), help="CSV with a column description")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/gpu.json"), help="where the JSON goes")
    parser.add_argument("--forecasts", type=Path, help="what plan_gpu.py --forecast-only wrote; else computed here")
    parser.add_argument("--toy", action="store_true", help="toy models on a CPU, to see that it runs")
    parser.add_argument("--list", action="store_true", help="the tasks and the estimated seconds of each, no more")
    options = parser.parse_args()
    if not (options.toy or options.list or torch.cuda.is_available()):
        parser.error("no CUDA device here. --toy runs on a CPU; benchmarks/cpu.py measures one.")
    return options


def load_documents(rows: Path, folder: Path) -> list[Any]:
    return tokenize(read_texts(rows)[:8192], save_gpt2_tokenizer(folder / "tokenizer"))


def preload() -> None:
    from importlib import import_module

    for name in PRELOADED:
        import_module(name)


def tasks_of(options: argparse.Namespace, place: Place, folder: Path) -> tuple[list[Task], list[Task]]:
    """What runs alone on the device, the most important first; and what runs side by side after it."""
    made = toy_tasks(options, place, folder) if options.toy else all_tasks(options, place, folder)
    wanted = options.only or ["*"]
    alone, beside = ([task for task in tasks if any(fnmatch(task.name, name) for name in wanted)] for tasks in made)
    return [Task("machine", measure_machine, (place,), 8), *alone], beside


def all_tasks(options: argparse.Namespace, place: Place, folder: Path) -> tuple[list[Task], list[Task]]:
    both = (SMALL, LARGE)

    def own(model: str, way: str, seconds: float, *, profiled: bool = False) -> Task:
        return Task(f"{model}/{way}", measure_own, (place, model, way, both, profiled), seconds)

    def padded(model: str, kind: str, seconds: float, batches: tuple[int, ...] = BATCHES, rows: int = 1024) -> Task:
        imports = ("liger_kernel.transformers",) if kind == "liger" else ()
        return Task(f"{model}/{kind}", measure_padded, (place, model, kind, batches, rows), seconds, imports=imports)

    def trl(model: str, seconds: float) -> Task:
        return Task(f"{model}/trl", measure_trl, (place, model, (16, 64), 1024), seconds, imports=("trl", "datasets"))

    command = Commands(make_folder(folder, "command"), options.rows.resolve(), SHAPES["gpt-neo-125m"])
    resumed = Commands(make_folder(folder, "resume"), options.rows.resolve(), SHAPES["gpt-neo-125m"])
    neo, llama = "gpt-neo-125m", "smollm2-135m"
    alone = [
        own(neo, "full", 35, profiled=True),
        Task("commands", measure_commands, (command, ("cold", "warm")), 90),
        own(llama, "full", 35, profiled=True),
        padded(neo, "hf", 16),
        padded(llama, "hf", 18),
        padded(llama, "liger", 18),
        trl(llama, 30),
        own(neo, "lora", 14),
        own("gpt-neo-1.3b", "full", 18),
        own("gpt-neo-2.7b", "full", 22),
        own("gpt-neo-1.3b", "lora", 14),
        own("gpt-neo-2.7b", "lora", 16),
        padded("gpt-neo-1.3b", "hf", 18, rows=512),
        Task(f"{neo}/reference", measure_reference, (place, neo, 8), 9),
        own("gpt-neo-2.7b", "bf16", 16),
        own(neo, "bf16", 12),
        own("gpt-neo-1.3b", "bf16", 14),
        own(llama, "lora", 14),
        own(llama, "bf16", 12),
        trl(neo, 3),
    ]
    few = Timed(4096, 2, 1)
    beside = [
        *plan_tasks(options, PLANNED, "cuda"),
        Task("gpt-j-6b/lora", measure_large_lora, (place, "EleutherAI/gpt-j-6b", few), 30, 26),
        Task("falcon-7b/lora", measure_large_lora, (place, "tiiuae/falcon-7b", few), 30, 28),
        Task("resume", measure_resume, (resumed, 150, 50), 75, 6),
    ]
    return alone, beside


def toy_tasks(options: argparse.Namespace, place: Place, folder: Path) -> tuple[list[Task], list[Task]]:
    sizes = (Timed(64, 1, 1), Timed(256, 1, 1))
    toy = ("data.max_rows=40", "train.max_steps=4", "train.max_length=64", "compare.num_samples=2")
    shape = replace(SHAPES["toy-neo"], positions=512)
    command = Commands(make_folder(folder, "command"), options.rows.resolve(), shape, toy)
    alone = [
        Task("toy-neo/full", measure_own, (place, "toy-neo", "full", sizes, False), 30),
        Task("toy-llama/lora", measure_own, (place, "toy-llama", "lora", sizes[:1], False), 30),
        Task("toy-neo/hf", measure_padded, (place, "toy-neo", "hf", (2, 4), 4), 30),
        Task("toy-llama/liger", measure_padded, (place, "toy-llama", "liger", (4,), 8), 30),
        Task("toy-neo/trl", measure_trl, (place, "toy-neo", (4,), 8), 30),
        Task("toy-neo/reference", measure_reference, (place, "toy-neo", 1), 30),
        Task("commands", partial(measure_commands, compares=False), (command, ("warm",)), 120),
    ]
    resumed = Commands(make_folder(folder, "resume"), options.rows.resolve(), shape, toy[:1])
    beside = [*plan_tasks(options, TOY_PLANNED, "cpu"), Task("resume", measure_resume, (resumed, 12, 4), 120)]
    return alone, beside


def plan_tasks(options: argparse.Namespace, models: list[str], device: str) -> list[Task]:
    """The cases of plan_gpu.py; of toys two."""
    known = read_forecasts(options.forecasts)
    cases = [Case(model, *way) for model in models for way in WAYS]
    rooms = {case: case.room(known.get(case.name)) for case in cases}
    return [
        Task(f"plan/{case.name}", run_case, (case, device, known.get(case.name)), CASE_SECONDS, rooms[case])
        for case in (cases if device == "cuda" else cases[:2])
    ]


def make_folder(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


def measure(
    options: argparse.Namespace, alone: list[Task], beside: list[Task], folder: Path
) -> tuple[list[Row], list[str], float]:
    """All rows, the names of what was left out, and the seconds."""
    rows: list[Row] = []
    lines = options.out.with_suffix(".jsonl")
    lines.unlink(missing_ok=True)

    def on_row(task: Task, row: Row) -> None:
        rows.append({"task": task.name, "at": round(time.monotonic() - runner.begun, 1), **row})
        with lines.open("a", encoding="utf-8") as file:
            print(json.dumps(rows[-1]), file=file)
        print_row(rows[-1])

    began = time.monotonic() - (time.time() - psutil.Process().create_time())
    slack = 600.0 if options.toy else SLACK_SECONDS  # a busy machine is no failure of a toy
    runner = Runner(folder, on_row, options.budget, slack=slack, begun=began)
    runner.one_by_one(alone[:1])
    if any(row.get("failed") for row in rows) and not options.toy:
        rows.clear()
        runner.method = "spawn"  # whatever this process did to CUDA, its forks cannot use it
        print("processes are started anew, not forked")
        runner.one_by_one(alone[:1])
    free = next((row["free_bytes"] for row in rows if row.get("free_bytes")), 0) / 1e9
    runner.one_by_one(alone[1:], reserve=side_by_side_seconds(beside))
    runner.side_by_side(beside, gigabytes=free - SPARE_GIGABYTES, workers=1 if options.toy else WORKERS)
    return rows, runner.left_out, time.monotonic() - runner.begun


def side_by_side_seconds(tasks: list[Task]) -> float:
    """What the tasks take together; most of a process is not waiting for the device."""
    return 0.0 if not tasks else max(max(task.seconds for task in tasks), 5.0 * len(tasks) / WORKERS + 15)


def write_results(options: argparse.Namespace, rows: list[Row], left_out: list[str], seconds: float) -> None:
    plan_rows = [row for row in rows if row["task"].startswith("plan/") and "predicted_bytes" in row]
    flops = {name: flops_per_token(shape) for name, shape in SHAPES.items() if any(name in row["task"] for row in rows)}
    results = {
        "command": " ".join(["python", *sys.argv]),
        "options": {key: str(value) for key, value in vars(options).items()},
        "sizes": [asdict(SMALL), asdict(LARGE)],
        "flops_per_token": flops,
        "rows": rows,
        "plan": summary(plan_rows) if plan_rows else None,
        "ratios": ratios(rows, flops),
        "left_out": left_out,
        "seconds": seconds,
    }
    options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print_tables(results)
    print(f"\n{seconds:.0f} s; written to {options.out}, rows as they came to {options.out.with_suffix('.jsonl')}")


if __name__ == "__main__":
    main()
