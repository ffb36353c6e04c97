"""tunesmith fine-tunes Hugging Face causal language models on your own text.

The pipeline, one room a stage, one artefact each in the run directory:

    recipe.py      what was asked: YAML and overrides -> a frozen Recipe            recipe.yaml
    data/          read, rows, split, tokens: text from files -> token arrays       data.json
    audit/         what the data really is
    plan/          what was decided, with reasons; forecast/: what that takes       plan.json
    training/      the one training path: steps, checkpoints, recovery              metrics.jsonl, checkpoints/, model/
    evaluate.py    held-out loss, perplexity, bits per byte, token accuracy         result.json
    compare/       base against tuned: same prompts, same seeds; scores             compare.json
    report/        the run directory -> one HTML file                               report.html
    export/        the tuned model for other engines, proved there                  export/

    cli/ api.py demo.py            the commands and the Python API; pipeline.py tells the story in one function
    init/ schema.py                a first recipe; every key of one
    show/                          all that is printed in a terminal
    run/                           a run on disk: its artefacts, lock, signals and table
    models/ generate/ fast/        models found, loaded, written with, made fast
    doctor/ selftest.py machine/   whether this machine, and the arithmetic on it, is fit
    sweep/ launch/                 a search over recipe values; the same recipe on many processes and machines
    watch/ serve/ web.py           a run while it goes on, a model over HTTP, and what every server stands behind
    step.py                        one optimizer step, assembled once for plan, training and benchmarks
    foreign.py                     names of other tools
    cache.py compat.py disk.py errors.py redact.py units.py

Imports only go down: docs/architecture.md has the order and the reasons.

    import tunesmith
    run = tunesmith.train("recipe.yaml", out="runs/shows")
    run.result["eval_loss"]; run.generate("One fine morning"); run.compare(); run.report()
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tunesmith.api import Run, audit, doctor, evaluate_file, generate, plan, train
    from tunesmith.errors import (
        DataError,
        ModelError,
        PlanError,
        RecipeError,
        RunError,
        ServeError,
        Stopped,
        TrainingError,
        TunesmithError,
    )
    from tunesmith.recipe import Recipe

_HOMES = {
    "Recipe": "recipe",
    "Run": "api",
    "evaluate_file": "api",
    "train": "api",
    "DataError": "errors",
    "ModelError": "errors",
    "PlanError": "errors",
    "RecipeError": "errors",
    "RunError": "errors",
    "ServeError": "errors",
    "Stopped": "errors",
    "TrainingError": "errors",
    "TunesmithError": "errors",
}
_CALLED_ROOMS = ("audit", "doctor", "generate", "plan")
"""Rooms that are called like the function of api.py that they stand for: tunesmith.plan(recipe) is api.plan."""

__all__ = [
    "DataError",
    "ModelError",
    "PlanError",
    "Recipe",
    "RecipeError",
    "Run",
    "RunError",
    "ServeError",
    "Stopped",
    "TrainingError",
    "TunesmithError",
    "__version__",
    "audit",
    "doctor",
    "evaluate_file",
    "generate",
    "plan",
    "train",
]


class _Room(ModuleType):
    """This package and each below it: what lies in one is imported when it is named, and rooms stay so."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and hasattr(value, "__path__"):
            called = self.__name__ == __name__ and name in _CALLED_ROOMS
            value.__class__ = _CalledRoom if called else _Room
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        where = f"{self.__name__}.{name}"
        if not name.startswith("_"):
            try:
                return import_module(where)
            except ModuleNotFoundError as error:
                if error.name != where:
                    raise
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


class _CalledRoom(_Room):
    """A room that can be called, as the function of api.py of the same name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        name = self.__name__.rpartition(".")[2]
        return getattr(import_module("tunesmith.api"), name)(*args, **kwargs)


sys.modules[__name__].__class__ = _Room


def __getattr__(name: str) -> Any:
    """Public names load their module on first use, so that `import tunesmith` imports no torch."""
    if name not in _HOMES:
        raise AttributeError(name)  # _Room tries for a room
    value = getattr(import_module(f"tunesmith.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
