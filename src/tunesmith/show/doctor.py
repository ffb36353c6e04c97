"""An examination of the machine for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunesmith.doctor import Examination

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_COLOURS = {"ok": "green", "warn": "yellow", "failed": "bold red"}


def print_examination(examination: Examination, console: Console) -> None:
    """A line a check, with what to do where one is not ok, and the verdict."""
    style = "bold" if examination.can_train else "bold red"
    console.print(_table(examination))
    console.print(examination.summary(), style=style, highlight=False)


def _table(examination: Examination) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1), show_header=False)
    table.add_column(justify="right")
    for name in ("check", "status", "found"):
        table.add_column(overflow="fold", no_wrap=name != "found")
    for check in examination.checks:
        told = Text(check.found)
        if check.fix and check.status != "ok":
            told.append(f"\n{check.fix}", _COLOURS[check.status])
        table.add_row(str(check.number), check.name, Text(check.status, _COLOURS[check.status]), told)
    return table
