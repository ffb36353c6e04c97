"""How many of many are done: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tunesmith.show.doing import Doing

if TYPE_CHECKING:
    from rich.console import Console


@contextmanager
def counting(console: Console, what: str) -> Iterator[Callable[[int, int], object]]:
    """Inside, call what it gives with (done, total)."""
    if not console.is_terminal or console.quiet:
        with Doing(console) as doing:
            yield lambda done, total: doing(what, done, total)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
