"""The trials of a sweep in a terminal, the best first."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from tunesmith.sweep.outcome import ranked, rows_of
from tunesmith.sweep.study import Study

SHOWN = 15


def print_trials(console: Console, study: Study) -> None:
    """The best trials, and what mattered."""
    table = Table(box=None, pad_edge=False)
    table.add_column("trial", justify="right")
    table.add_column("held-out loss", justify="right")
    for one in study.space:
        table.add_column(one.key.removeprefix("train."), justify="right")
    table.add_column("state")
    rows = ranked(rows_of(study))
    for row in rows[:SHOWN]:
        loss = "" if row["eval_loss"] is None else f"{row['eval_loss']:.4f}"
        values = [row["values"].get(one.key, "") for one in study.space]
        shown = [f"{value:.3g}" if isinstance(value, float) else str(value) for value in values]
        table.add_row(str(row["number"]), loss, *shown, row["state"])
    console.print(table)
    if len(rows) > SHOWN:
        console.print(f"and {len(rows) - SHOWN} more in trials.json")
    importances = study.importances()
    if importances:
        shares = ", ".join(f"{key} {share:.0%}" for key, share in importances.items())
        console.print(f"what mattered: {shares}", highlight=False)
