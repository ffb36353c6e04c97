"""The curve in a terminal: what was trained, what is forecast, and what to do."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from tunesmith.sweep.curve.values import Band, Curve, Forecast

COLUMNS = ("rows", "share", "held-out loss", "90% interval", "gain", "minutes")


def print_curve(console: Console, curve: Curve) -> None:
    """A row for each share that was trained and for each forecast, then the verdict."""
    table = Table(box=None, pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, justify="right")
    table.add_column("")
    for point in curve.points:
        told = "trained" + (", other rows" if point.again else "")
        if point.model != curve.model:
            told = f"trained, {point.model}"
        minutes = f"{point.train_seconds / 60:.1f}"
        table.add_row(f"{point.num_rows:,}", f"{point.share:.3g}", f"{point.eval_loss:.3f}", "", "", minutes, told)
    _add(table, curve.forecasts, "forecast")
    if curve.bigger is not None:
        _add(table, curve.bigger.forecasts, f"forecast, {curve.bigger.name}")
    console.print(table)
    for sentence in curve.verdict:
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)


def _add(table: Table, forecasts: Sequence[Forecast], told: str) -> None:
    for one in forecasts:
        minutes = "" if one.minutes is None else f"{one.minutes:,.1f}"
        loss, factor = one.eval_loss, f"{one.factor:.3g}"
        table.add_row(
            f"{one.num_rows:,}", factor, f"{loss.value:.3f}", _interval(loss), f"{one.gain.value:.3f}", minutes, told
        )


def _interval(band: Band) -> str:
    return f"{band.low:.3f} to {band.high:.3f}"
