"""Afterwards: what the run took, beside what was planned."""

from __future__ import annotations

from collections.abc import Callable

from tunesmith.run.artefacts import MeasuredRun, Plan, Predicted, Result
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
    took, planned = _known(result), _known(plan.predicted)
    measured = MeasuredRun(
        peak_bytes=result.peak_bytes,
        train_seconds=result.train_seconds,
        total_seconds=result.total_seconds,
        tokens_per_second=result.tokens_per_second,
        of_predicted={name: took[name] / planned[name] for name in took if planned.get(name)},
    )
    run_dir.write(plan.model_copy(update={"measured": measured}))
    return _summary(planned, took)


def _known(values: Result | Predicted | None) -> dict[str, float]:
    """Those of `FORECASTS` that have a value."""
    found = {name: getattr(values, name, None) for name in FORECASTS}
    return {name: value for name, value in found.items() if value is not None}


def _summary(planned: dict[str, float], took: dict[str, float]) -> str:
    """`planned 17.3 GB, 6 min and 300 tokens/s, took 17.1 GB, 5 min and 310 tokens/s`.

    What was not planned is only told.
    """
    shown = [name for name in SHOWN if name in took]
    both = [name for name in shown if name in planned]
    text = f"took {_listed(shown, took)}" if shown else "nothing was measured"
    return f"planned {_listed(both, planned)}, {text}" if both else text


def _listed(names: list[str], values: dict[str, float]) -> str:
    *first, last = (SHOWN[name](values[name]) for name in names)
    return f"{', '.join(first)} and {last}" if first else last
