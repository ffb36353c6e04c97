"""A table of texts to a tuned model, and what changed: python examples/csv_to_comparison.py poems.csv body

The same as `tunesmith train` and `tunesmith compare`; about five minutes for a few hundred rows on two cores.
"""

from __future__ import annotations

import argparse

import tunesmith


def main(arguments: list[str] | None = None) -> tunesmith.Run:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", help="CSV, jsonl, Parquet ...")
    parser.add_argument("column", help="that holds the text")
    parser.add_argument("--model", default="smollm2-135m", help="or a hub id, a directory, a GGUF file")
    parser.add_argument("--out", default="runs/example")
    asked = parser.parse_args(arguments)

    recipe = {"model": asked.model, "data": {"path": asked.table, "text": asked.column}}

    forecast = tunesmith.plan(recipe)  # before anything is loaded or trained
    print(f"plan: {forecast.plan.num_steps} steps, {forecast.plan.reasons['tokens_per_step']}")

    run = tunesmith.train(recipe, out=asked.out, on_evaluate=lambda step, scores: print(step, scores.eval_loss))
    print(f"held-out loss {run.result['eval_loss_base']:.3f} -> {run.result['eval_loss']:.3f}")

    run.compare(["One fine morning"])
    print("base: ", run.generate("One fine morning", base=True))
    print("tuned:", run.generate("One fine morning"))
    print("all of it:", run.report())
    return run


if __name__ == "__main__":
    main()
