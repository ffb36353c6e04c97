"""Afterwards: what the run took, beside what was planned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tunesmith.run.artefacts import MeasuredRun, Plan, Result
from tunesmith.run.directory import RunDir
from tunesmith.units import format_bytes, format_seconds

SHOWN: dict[str, Callable[[float], str]] = {
    "peak_bytes": format_bytes,
    "total_seconds": format_seconds,
    "tokens_per_second": lambda rate: f"{rate:,.0f} tokens/s",
}
FORECASTS = ("peak_bytes", "train_seconds", "total_seconds", "tokens_per_second")


def record_measured(run_dir: RunDir, result: Result) -> str:
    """Add what was measured, and its ratio to the forecast, to plan.json. Returns one line for the end of the run.

    A forecast that was not made has no ratio.
    """
    plan = run_dir.read(Plan)
    predicted = {name: getattr(plan.predicted, name, None) for name in FORECASTS}
    measured = {name: getattr(result, name) for name in FORECASTS}
    ratio = {name: measured[name] / predicted[name] for name in FORECASTS if measured[name] and predicted[name]}
    run_dir.write(plan.model_copy(update={"measured": MeasuredRun(**measured, of_predicted=ratio)}))
    return _summary(predicted, measured)


def _summary(predicted: dict[str, Any], measured: dict[str, Any]) -> str:
    """`planned 17.3 GB, 6 min and 300 tokens/s, took 17.1 GB, 5 min and 310 tokens/s`.

    What was not planned is only told.
    """
    took = [name for name in SHOWN if measured.get(name) is not None]
    planned = [name for name in took if predicted.get(name) is not None]
    text = f"took {_listed(took, measured)}" if took else "nothing was measured"
    return f"planned {_listed(planned, predicted)}, {text}" if planned else text


def _listed(names: list[str], values: dict[str, Any]) -> str:
    *first, last = (SHOWN[name](values[name]) for name in names)
    return f"{', '.join(first)} and {last}" if first else last
