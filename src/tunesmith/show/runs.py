"""Several runs for the terminal: a list, or side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunesmith.redact import redact, visible
from tunesmith.run.standing import Standing
from tunesmith.run.table import METRICS, RunRow, RunTable
from tunesmith.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

NARROWEST_NAME = 8
"""Letters of a run's name or state beside each other; longer ones go on in the next line."""


def print_runs(table: RunTable, console: Console) -> None:
    """As a table: a row a run for a list, a column a run for a comparison."""
    (_print_comparison if table.compared else _print_list)(table, console)
    for note in table.notes:
        console.print(note, markup=False, highlight=False)


def _print_list(runs: RunTable, console: Console) -> None:
    from rich.table import Table

    if not runs.rows:
        return
    columns, left_out = _fitting(_columns(runs), console.width)
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column.title, overflow="fold", no_wrap=column.wanted > 0, min_width=NARROWEST_NAME)
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*map(_plain, cells))
    console.print(table)
    if left_out:
        names = ", ".join(column.title for column in left_out)
        console.print(f"A wider window and --json also show: {names}.", markup=False, highlight=False)


@dataclass(frozen=True)
class _Column:
    title: str
    cells: tuple[str, ...]
    wanted: int
    """0: always there, and broken into lines where it must; else the lower, the longer it stays."""

    @property
    def width(self) -> int:
        """Characters of its longest cell, and the space between two."""
        from rich.cells import cell_len

        return 2 + max(cell_len(visible(text)) for text in (self.title, *self.cells))


def _columns(runs: RunTable) -> list[_Column]:
    def column(title: str, wanted: int, cell: Callable[[RunRow], str]) -> _Column:
        return _Column(title, tuple(cell(row) for row in runs.rows), wanted)

    def metric(title: str, wanted: int, key: str) -> _Column:
        return column(title, wanted, lambda row: show(key, row.metrics.get(key)))

    return [
        column("run", 0, lambda row: row.name),
        column("state", 0, _state),
        column("held-out loss", 1, _losses),
        metric("time", 2, "train_seconds"),
        metric("copies", 3, "copied_texts"),
        metric("told from real", 4, "style_auc"),
        metric("perplexity", 5, "eval_perplexity"),
        column("method", 6, lambda row: row.method),
        column("model", 7, lambda row: row.model),
    ]


def _state(row: RunRow) -> str:
    return f"{row.state}; {row.dry_run}" if row.dry_run else row.state


def _losses(row: RunRow) -> str:
    """`5.588 -> 4.269`, base and tuned."""
    before, after = (row.metrics.get(key) for key in ("eval_loss_base", "eval_loss"))
    if before is None:
        return show("eval_loss", after)
    return f"{show('eval_loss', before)} -> {'not measured' if after is None else show('eval_loss', after)}"


def _fitting(columns: list[_Column], width: int) -> tuple[list[_Column], list[_Column]]:
    """Those that stand beside each other in `width` without a broken number, and those that do not."""
    kept, left_out = list(columns), list[_Column]()
    needed = sum(column.width if column.wanted else min(column.width, 2 * NARROWEST_NAME) for column in kept)
    for column in sorted(columns, key=lambda column: -column.wanted):
        if needed <= width or not column.wanted:
            break
        kept.remove(column)
        left_out.insert(0, column)
        needed -= column.width
    return kept, left_out


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
