"""Kill a real run with -9 at random, go on each time, and compare its model with that of a run that nothing disturbed.

    python benchmarks/kill_resume.py                                  # SmolLM2 on the shows, five kills
    python benchmarks/kill_resume.py --kills 3 --set train.max_steps=20

Prints markdown: the kills, then the sha256 of every file of both models. Exits with 1 when one of them differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

SKIP = {"README.md"}
"""The model card says how long the run took."""


@dataclass(frozen=True)
class Kill:
    seconds: float
    step: int
    saved: int


def main() -> int:
    options = parse_arguments()
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    whole, killed = options.out / "whole", options.out / "killed"
    started = time.monotonic()
    run_to_the_end(options, whole)
    seconds = time.monotonic() - started
    kills = kill_at_random(options, killed, seconds)
    run_to_the_end(options, killed)
    return print_tables(whole, killed, seconds, kills)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/shows-smollm2.yaml"))
    parser.add_argument("--out", type=Path, default=Path("runs/kill-resume"), help="emptied first")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=7, help="of the times at which the run is killed")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="recipe values, as tunesmith's")
    return parser.parse_args()


def start(options: argparse.Namespace, run: Path) -> subprocess.Popen[bytes]:
    changes = [word for value in ["save.every=15s", *options.set] for word in ("--set", value)]
    command = [sys.executable, "-m", "tunesmith", "train", str(options.recipe), "--out", str(run), *changes]
    log = (options.out / f"{run.name}.log").open("ab")
    return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def run_to_the_end(options: argparse.Namespace, run: Path) -> None:
    if start(options, run).wait() != 0:
        sys.exit((options.out / f"{run.name}.log").read_text()[-2000:])


def kill_at_random(options: argparse.Namespace, run: Path, seconds: float) -> list[Kill]:
    """Kill the run at random times after each start's first step, on average a share of `seconds`."""
    generator = random.Random(options.seed)
    kills: list[Kill] = []
    while len(kills) < options.kills:
        before = last_saved(run)
        process = start(options, run)
        began = time.time()
        while process.poll() is None and (not is_newer(run / "metrics.jsonl", began) or last_step(run) <= before):
            time.sleep(0.2)
        try:
            code = process.wait(timeout=generator.uniform(0, 0.8) * seconds / options.kills)
            sys.exit(f"the run ended with {code} before kill {len(kills) + 1}; take fewer kills or a longer run")
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        kills.append(Kill(time.time() - began, last_step(run), last_saved(run)))
    return kills


def is_newer(path: Path, moment: float) -> bool:
    return path.exists() and path.stat().st_mtime > moment


def last_step(run: Path) -> int:
    """The last step that metrics.jsonl knows of."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    steps = [0]
    for line in lines:
        try:
            steps.append(json.loads(line)["step"])
        except ValueError:
            continue  # cut short by the kill
    return max(steps)


def last_saved(run: Path) -> int:
    return max((int(path.name.split("-")[1]) for path in run.glob("checkpoints/step-*")), default=0)


def hashes(model: Path) -> dict[str, str]:
    files = sorted(path for path in model.rglob("*") if path.is_file() and path.name not in SKIP)
    return {str(path.relative_to(model)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def print_tables(whole: Path, killed: Path, seconds: float, kills: list[Kill]) -> int:
    steps = json.loads((whole / "result.json").read_text())["steps"]
    print(f"A run of {steps} steps and {seconds:.0f} s, killed {len(kills)} times with `kill -9`:\n")
    print("| kill | after | reached step | went on from step |\n|---|---|---|---|")
    for i, kill in enumerate(kills, 1):
        print(f"| {i} | {kill.seconds:.1f} s | {kill.step} | {kill.saved} |")
    expected, found = hashes(whole / "model"), hashes(killed / "model")
    print("\n| file | sha256, never disturbed | sha256, killed and resumed | equal |\n|---|---|---|---|")
    names = sorted(expected.keys() | found.keys())
    for name in names:
        pair = [table.get(name, "missing") for table in (expected, found)]
        print(f"| {name} | `{pair[0][:16]}` | `{pair[1][:16]}` | {'yes' if pair[0] == pair[1] else 'NO'} |")
    return 0 if expected == found and names else 1


if __name__ == "__main__":
    sys.exit(main())
