"""What the defaults rest on: trials of training settings, one line each in docs/defaults/STAGE.jsonl.

    python benchmarks/defaults.py steps tokens_per_step=256,512 learning_rate=1e-4,2e-4 schedule=linear,cosine
    python benchmarks/defaults.py --tables

Every value that is named is tried with every other, and `/` begins another set of values; a trial that has its line is
not made again, so that the same command goes on where it stopped. A trial of 512 rows takes about two minutes on two
quiet cores.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from harness.documents import NETFLIX

MOST_SECONDS = 280.0
"""That a lock is held before others get their turn."""
FOLDER = Path(__file__).parents[1] / "docs" / "defaults"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", nargs="?", help="names the file")
    parser.add_argument("values", nargs="*", help="name=VALUE[,VALUE...] of harness/trials.py's Setting")
    parser.add_argument("--evaluations", type=int, default=1, help="of a trial, after equal shares of its tokens")
    parser.add_argument("--rows", type=Path, default=NETFLIX, help="CSV of Netflix titles, with a column description")
    parser.add_argument("--lock", type=Path, help="a file locked while a trial runs, where others measure here too")
    parser.add_argument("--tables", action="store_true", help="write the tables of docs/defaults.md anew")
    options = parser.parse_args()
    if options.tables:
        from harness.defaults_page import rewritten

        page = FOLDER.with_suffix(".md")
        page.write_text(rewritten(page.read_text(encoding="utf-8"), FOLDER), encoding="utf-8")
        return
    if options.stage is None:
        parser.error("name a stage")
    run(options)


def run(options: argparse.Namespace) -> None:
    from harness.trials import Bench, Setting

    path = FOLDER / f"{options.stage}.jsonl"
    path.parent.mkdir(exist_ok=True)
    bench = Bench(options.rows)
    for earlier in _lines(path):
        bench.know(Setting(**earlier["setting"]), earlier["base_loss"])
    for values in _products(options.values):
        setting = Setting.parse(values)
        if asdict(setting) in [line["setting"] for line in _lines(path)]:
            continue
        with _locked(options.lock) as pause:
            began = time.monotonic()
            line = bench.run(setting, options.evaluations, pause)
            seconds = time.monotonic() - began
        with path.open("a", encoding="utf-8") as file:
            file.write(line.text() + "\n")
        losses = " ".join(f"{loss:.4f}" for _, _, loss in line.evaluations)
        average = "" if line.average_loss is None else f" average {line.average_loss:.4f}"
        print(f"{setting.changed()}: {line.base_loss:.4f} {losses}{average} ({seconds:.0f} s)", flush=True)


def _products(texts: list[str]) -> Iterator[dict[str, str]]:
    """Each set of values, one of every name."""
    for is_end, part in itertools.groupby(texts, lambda text: text == "/"):
        if not is_end:
            names, choices = zip(*(_choices(text) for text in part), strict=True)
            for chosen in itertools.product(*choices):
                yield dict(zip(names, chosen, strict=True))


def _choices(text: str) -> tuple[str, list[str]]:
    name, equals, values = text.partition("=")
    if not equals:
        sys.exit(f"{text}: expected name=VALUE[,VALUE...]")
    return name, values.split(",")


def _lines(path: Path) -> list[dict[str, Any]]:
    """Of the trials that were made."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@contextlib.contextmanager
def _locked(path: Path | None) -> Iterator:
    """Gives what lets others have their turn."""
    if path is None:
        yield lambda: None
        return
    with path.open("a") as file:
        taken = 0.0

        def take() -> None:
            nonlocal taken
            fcntl.flock(file, fcntl.LOCK_EX)
            taken = time.monotonic()

        def pause() -> None:
            if time.monotonic() - taken > MOST_SECONDS:
                fcntl.flock(file, fcntl.LOCK_UN)
                time.sleep(0.5)
                take()

        take()
        yield pause


if __name__ == "__main__":
    main()
