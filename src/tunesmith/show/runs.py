"""Several runs for the terminal: a list, or side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunesmith.redact import redact, visible
from tunesmith.run.standing import Standing
from tunesmith.run.table import METRICS, RunTable
from tunesmith.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

LISTED = ("eval_loss_base", "eval_loss", "eval_perplexity", "style_auc", "copied_texts", "train_seconds")


def print_runs(table: RunTable, console: Console) -> None:
    """As a table: a row a run for a list, a column a run for a comparison."""
    (_print_comparison if table.compared else _print_list)(table, console)
    for note in table.notes:
        console.print(note, markup=False, highlight=False)


def _print_list(runs: RunTable, console: Console) -> None:
    from rich.table import Table

    if not runs.rows:
        return
    table = Table("run", "state", "model", "method", *(METRICS[key] for key in LISTED), box=None, pad_edge=False)
    for row in runs.rows:
        values = (show(key, row.metrics.get(key)) for key in LISTED)
        table.add_row(*(_plain(text) for text in (row.name, row.state, row.model, row.method, *values)))
    console.print(table)


def _print_comparison(runs: RunTable, console: Console) -> None:
    from rich.table import Table

    best = runs.best()
    table = Table("", box=None, pad_edge=False)
    for row in runs.rows:
        table.add_column(_plain(row.name))
    table.add_row("state", *(_plain(row.state) for row in runs.rows))
    for key, values in runs.differences.items():
        table.add_row(_plain(key), *(_plain(str(value)) for value in values))
    table.add_section()
    for key, title in METRICS.items():
        if any(key in row.metrics for row in runs.rows):
            cells = (show(key, row.metrics.get(key)) + (" *" if best.get(key) == row.name else "") for row in runs.rows)
            table.add_row(title, *(_plain(cell) for cell in cells))
    console.print(table)
    if best:
        console.print("* the best of these runs", highlight=False)


def show(key: str, value: float | None) -> str:
    """A metric as a table shows it."""
    if value is None:
        return "-"
    if key == "peak_bytes":
        return format_bytes(value)
    if key == "train_seconds":
        return format_seconds(value)
    if key in ("eval_token_accuracy", "copied_texts"):
        return f"{value:.1%}"
    if key == "general_loss":
        return f"{value:+.3f}"
    digits = {"eval_perplexity": 1, "style_auc": 2, "tokens_per_second": 0, "steps": 0}.get(key, 3)
    return f"{value:,.{digits}f}"


def _plain(text: str) -> Text:
    """A cell that is printed as it is: no markup, no control characters, no secrets."""
    from rich.text import Text

    return Text(redact(visible(text)))


def describe_standing(name: str, found: Standing) -> str:
    """`runs/a: running (training), step 40 of 82, loss 4.26, 230 tokens/s, 2 min left (process 4711 on box)`."""
    why = f" ({found.why})" if found.why else ""
    parts = [f"{name}: {found.state}{why}", f"step {found.step:,} of {found.num_steps:,}"]
    if found.loss is not None:
        parts.append(f"loss {found.loss:.3f}")
    if found.eval_loss is not None:
        parts.append(f"held-out loss {found.eval_loss:.3f}")
    if found.is_alive and found.tokens_per_second is not None:
        parts.append(f"{found.tokens_per_second:,.0f} tokens/s")
    if found.seconds_left is not None:
        parts.append(f"{format_seconds(found.seconds_left)} left")
    text = ", ".join(parts)
    if found.is_alive:
        text += f" (process {found.pid} on {found.host})"
    return redact(visible(text)) + (f"\nGo on with: {found.resume}" if found.resume else "")
