"""What a run takes: its first steps set what is predicted of its time; afterwards both stand side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tunesmith.forecast.time import Measured
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


def refit_predicted(run_dir: RunDir, measured: Sequence[Measured], num_tokens: int) -> None:
    """Set what plan.json predicts of the time by real steps of the run, of `num_tokens` in all. Nothing else changes.

    What was decided stays: a measured time differs from day to day, and the same recipe must give the same plan.
    """
    plan = run_dir.read(Plan)
    if not measured or plan.predicted is None:
        return
    seconds = sum(item.seconds for item in measured) / sum(item.num_tokens for item in measured) * num_tokens
    before = plan.predicted.time
    run_seconds = before.run_seconds - before.train_seconds + seconds
    time = before.model_copy(
        update={
            "train_seconds": seconds,
            "run_seconds": run_seconds,
            "total_seconds": run_seconds + before.load_seconds,
            "tokens_per_second": before.tokens_per_second * before.train_seconds / seconds,
            "origin": "real steps at the start of the run",
        }
    )
    update = {"time": time, "train_seconds": seconds, "total_seconds": run_seconds}
    predicted = plan.predicted.model_copy(update={**update, "tokens_per_second": time.tokens_per_second})
    run_dir.write(plan.model_copy(update={"predicted": predicted}))


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
