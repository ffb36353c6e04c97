"""tunesmith fine-tunes Hugging Face causal language models on your own text.

The pipeline, one module a stage, one artefact each in the run directory:

    recipe.py      what was asked: YAML and overrides -> a frozen Recipe            recipe.yaml
    data/          read, render, split, tokenize, audit, batch                      data.json
    plan/          what was decided, with reasons; memory, time, disk, cost         plan.json
    training/      the one training path: steps, checkpoints, recovery, signals     metrics.jsonl, checkpoints/, model/
    evaluate.py    held-out loss, perplexity, bits per byte, token accuracy         result.json
    compare/       base against tuned: same prompts, same seeds; scores             compare.json
    report/        the run directory -> one HTML file                               report.html

    pipeline.py    the story in one function, and this Python API
    rundir.py      every artefact's name, reader and writer
    source.py tokenizer.py model.py fast/    models: found, tokenized, loaded, made fast
    generate.py doctor.py cli.py errors.py   text, the machine, the command line, what can go wrong
    signals.py redact.py heap.py             stops that lose nothing; secrets kept out of every output; huge pages

    import tunesmith
    run = tunesmith.train("recipe.yaml", out="runs/shows")
    run.result["eval_loss"]; run.generate("One fine morning"); run.compare(); run.report()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tunesmith.errors import (
        DataError,
        ModelError,
        PlanError,
        RecipeError,
        RunError,
        Stopped,
        TrainingError,
        TunesmithError,
    )
    from tunesmith.pipeline import Run, train
    from tunesmith.recipe import Recipe

_HOMES = {
    "Recipe": "recipe",
    "Run": "pipeline",
    "train": "pipeline",
    "DataError": "errors",
    "ModelError": "errors",
    "PlanError": "errors",
    "RecipeError": "errors",
    "RunError": "errors",
    "Stopped": "errors",
    "TrainingError": "errors",
    "TunesmithError": "errors",
}

__all__ = [
    "DataError",
    "ModelError",
    "PlanError",
    "Recipe",
    "RecipeError",
    "Run",
    "RunError",
    "Stopped",
    "TrainingError",
    "TunesmithError",
    "__version__",
    "train",
]


def __getattr__(name: str) -> Any:
    """Public names load their module on first use, so that `import tunesmith` imports no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'tunesmith' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"tunesmith.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
