"""Held-out loss of each optimizer on the same rows in the same order, against AdamW over float32 weights.

    until python benchmarks/optimizers.py netflix_titles.csv; [ $? != 75 ]; do :; done
    python benchmarks/optimizers.py netflix_titles.csv --table
    python benchmarks/optimizers.py netflix_titles.csv --updates      # seconds of one update alone

Each call makes one trial, or goes on with it for --seconds, and writes a JSON line where it has ended. It exits with
75 where there is more to do, and with 0 where nothing is left. First every optimizer at every rate with one seed, then
the best rate of each with the other seeds. --table prints markdown of what there is.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import tunesmith
from tunesmith.errors import Stopped
from tunesmith.models.find import find_model
from tunesmith.models.load import load_model
from tunesmith.step import StepSettings, make_optimizer, prepare_model

WAYS = {
    "adamw float32": ("adamw", "float32"),
    "adafactor float32": ("adafactor", "float32"),
    "adamw8bit bfloat16": ("adamw8bit", "bfloat16"),
    "adafactor bfloat16": ("adafactor", "bfloat16"),
    "adamw bfloat16": ("adamw", "bfloat16"),
    "muon float32": ("muon", "float32"),
    "muon bfloat16": ("muon", "bfloat16"),
}
"""Optimizer and type of the weights; the arithmetic is bf16 everywhere."""
RATES = (2e-4, 4e-4, 1e-4)
SEEDS = (7, 8, 9)


@dataclass(frozen=True)
class Trial:
    way: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.way.replace(' ', '-')}-{self.rate:g}-{self.seed}"


def main() -> int:
    options = parse_arguments()
    done = read_lines(options.out)
    if options.updates:
        time_updates(options.model)
        return 0
    if options.table:
        print_table(done)
        return 0
    trial = next_trial(done, options.ways, options.rates, options.seeds)
    if trial is None:
        return 0
    line = run_trial(trial, options)
    if line is not None:
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
    return 75


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="rows with a column `description`")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/optimizers.jsonl"))
    parser.add_argument("--runs", type=Path, default=Path("runs/optimizers"), help="removed trial by trial")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rows", type=int, default=160, help="a quarter is held out")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS), metavar="'OPTIMIZER DTYPE'")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--seconds", type=float, default=170, help="of training in one call")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--updates", action="store_true")
    return parser.parse_args()


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def next_trial(
    done: list[dict[str, Any]], ways: list[str], rates: tuple[float, ...], seeds: tuple[int, ...]
) -> Trial | None:
    """The first that is missing: rates with the first seed, way by way, then other seeds at each way's best rate."""
    have = {(line["way"], line["rate"], line["seed"]) for line in done}
    first = [Trial(way, rate, seeds[0]) for rate in rates for way in ways]
    other = [Trial(way, rate, seed) for seed in seeds[1:] for way in ways if (rate := best_rate(done, way)) is not None]
    return next((trial for trial in (*first, *other) if (trial.way, trial.rate, trial.seed) not in have), None)


def best_rate(done: list[dict[str, Any]], way: str) -> float | None:
    """Of the seed that all rates were tried with."""
    tried = [line for line in done if line["way"] == way and line["seed"] == done[0]["seed"]]
    return min(tried, key=lambda line: line["eval_loss"])["rate"] if tried else None


def recipe_of(trial: Trial, options: argparse.Namespace) -> tunesmith.Recipe:
    optimizer, dtype = WAYS[trial.way]
    return tunesmith.Recipe(
        model={"name": options.model, "dtype": dtype},
        data={"path": str(options.data), "text": "description", "max_rows": options.rows, "eval_fraction": 0.25},
        train={
            "optimizer": optimizer,
            "learning_rate": trial.rate,
            "precision": "bf16",
            "tokens_per_step": 256,
            "max_length": 128,
            "rehearse": False,
            "seed": trial.seed,
        },
        eval={"every": 10_000, "samples": 0},
        save={"every": 10_000, "keep": 1, "dtype": dtype},
    )


def run_trial(trial: Trial, options: argparse.Namespace) -> dict[str, Any] | None:
    """The trial's line; None where it goes on in another call."""
    out, ends = options.runs / trial.name, time.monotonic() + options.seconds
    try:
        run = tunesmith.train(
            recipe_of(trial, options),
            out=out,
            resume=(out / "recipe.yaml").exists(),
            stop=lambda: time.monotonic() > ends,
            console=Console(quiet=True),
        )
    except Stopped:
        return None
    result, plan = run.result, json.loads((out / "plan.json").read_text(encoding="utf-8"))
    kept = ("eval_loss", "eval_loss_base", "train_seconds", "steps", "peak_bytes")
    line = asdict(trial) | {key: result[key] for key in kept}
    line["planned_bytes"] = plan["predicted"]["peak_bytes"]
    line["state_bytes"] = plan["predicted"]["memory"]["components"]["optimizer"]
    shutil.rmtree(out)
    return line


def time_updates(name: str) -> None:
    """The shorter of two updates by each optimizer, on gradients drawn at random."""
    print("| optimizer | weights | seconds | state |\n|---|---|---|---|")
    for way, (optimizer, dtype) in WAYS.items():
        settings = StepSettings(dtype=dtype, optimizer=optimizer)
        model = prepare_model(load_model(find_model(name), dtype=dtype), settings)
        updater, seconds = make_optimizer(model.parameters(), settings), []
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        for _ in range(2):
            started = time.perf_counter()
            updater.step()
            seconds.append(time.perf_counter() - started)
        held = sum(tensor.nbytes for state in updater.state.values() for tensor in state.values())
        print(f"| {way.replace(' ', ' | ')} | {min(seconds):.2f} | {held / 1e6:,.1f} MB |", flush=True)


def print_table(done: list[dict[str, Any]]) -> None:
    rates = sorted({line["rate"] for line in done})
    seeds = {line["seed"] for line in done}
    print("| optimizer | weights |" + "".join(f" {rate:g} |" for rate in rates) + " mean of the best rate | state |")
    print("|---|---|" + "---|" * (len(rates) + 2))
    for way, (optimizer, dtype) in WAYS.items():
        own = [line for line in done if line["way"] == way]
        if not own:
            continue
        first = {line["rate"]: line["eval_loss"] for line in own if line["seed"] == done[0]["seed"]}
        best = [line["eval_loss"] for line in own if line["rate"] == best_rate(done, way)]
        cells = "".join(f" {first[rate]:.4f} |" if rate in first else " |" for rate in rates)
        spread = f" ({min(best):.4f} to {max(best):.4f}, {len(best)} seeds)" if len(best) > 1 else ""
        state = own[0]["state_bytes"] / 1e6
        print(f"| {optimizer} | {dtype} |{cells} {statistics.mean(best):.4f}{spread} | {state:,.0f} MB |")
    print(f"\nBase: {done[0]['eval_loss_base']:.4f}. Seeds {', '.join(map(str, sorted(seeds)))}." if done else "")


if __name__ == "__main__":
    sys.exit(main())
