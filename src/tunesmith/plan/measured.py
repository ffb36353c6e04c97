"""Afterwards: what the run took, beside what was planned."""

from __future__ import annotations

from typing import Any

from tunesmith.plan.units import format_bytes, format_seconds
from tunesmith.rundir import PLAN, RunDir

FORECASTS = ("peak_bytes", "train_seconds", "total_seconds", "tokens_per_second")


def record_measured(run_dir: RunDir, result: dict[str, Any]) -> str:
    """Add what was measured, and its ratio to the forecast, to plan.json. Returns one line for the end of the run.

    result: the content of result.json. A forecast that was not made has no ratio.
    """
    plan = run_dir.read_json(PLAN)
    predicted = plan.get("predicted") or {}
    measured = {name: result.get(name) for name in FORECASTS}
    ratio = {name: measured[name] / predicted[name] for name in FORECASTS if measured.get(name) and predicted.get(name)}
    run_dir.write_json(PLAN, {**plan, "measured": {**measured, "of_predicted": ratio}})
    return _summary(predicted, measured)


def _summary(predicted: dict[str, Any], measured: dict[str, Any]) -> str:
    """`planned 17.3 GB and 6 min, took 17.1 GB and 5 min`; what was not planned is only told."""
    parts = {"peak_bytes": format_bytes, "total_seconds": format_seconds}
    took = [(name, show) for name, show in parts.items() if measured.get(name) is not None]
    planned = [(name, show) for name, show in took if predicted.get(name) is not None]
    text = "took " + " and ".join(show(measured[name]) for name, show in took) if took else "nothing was measured"
    if planned:
        text = "planned " + " and ".join(show(predicted[name]) for name, show in planned) + ", " + text
    return text
