"""A pandas frame, or a datasets.Dataset, in; a run out: python examples/frame_to_run.py

Rows that are in memory need no file. Here the question is read, and the answer is learned.
"""

from __future__ import annotations

import argparse
from typing import Any

import tunesmith

COLOURS = ("red", "green", "blue", "yellow", "white", "black", "brown", "grey")
THINGS = ("boat", "house", "river", "window", "garden", "street", "letter", "coat")


def frame() -> Any:
    """64 questions and answers; `datasets.Dataset.from_pandas(frame())` would do as well."""
    import pandas

    rows = [(f"What is the {colour} {thing}?", f" The {thing} is {colour}.") for colour in COLOURS for thing in THINGS]
    return pandas.DataFrame(rows, columns=["question", "answer"])


def main(arguments: list[str] | None = None) -> tunesmith.Run:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--out", default="runs/frame")
    asked = parser.parse_args(arguments)

    recipe = {
        "model": asked.model,
        "data": {"prompt": "question", "completion": "answer", "near_duplicates": False},
        "train": {"method": "lora", "epochs": 3},
    }
    rows = frame()
    found = tunesmith.audit(recipe, data=rows)
    print(f"audit: {len(found.findings)} checks, {len(found.blocks)} that stop the run")

    losses: list[float] = []
    run = tunesmith.train(recipe, out=asked.out, data=rows, on_step=lambda line: losses.append(line.loss))
    print(f"{len(losses)} steps, {run.result['eval_loss_base']:.3f} -> {run.result['eval_loss']:.3f}")
    print(run.generate("What is the green letter?"))
    return run


if __name__ == "__main__":
    main()
