"""The screen of `tunesmith watch`: one run in full, or a line a run."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from tunesmith.errors import Stopped
from tunesmith.redact import redact, visible
from tunesmith.units import format_seconds
from tunesmith.watch.chart import Line, draw
from tunesmith.watch.device import Load, loads
from tunesmith.watch.facts import facts, progress
from tunesmith.watch.view import View

if TYPE_CHECKING:
    from rich.console import Console

REFRESH_SECONDS = 1.0
STATE_STYLES = {
    "running": "green",
    "waiting": "cyan",
    "stopping": "yellow",
    "stopped": "yellow",
    "finished": "bold green",
    "failed": "bold red",
    "crashed": "bold red",
}
LEAST_CHART_ROWS = 4
_SAMPLE = re.compile(r"step \d+ writes: ")
"""Of the log: samples have lines of their own."""


def watch(views: Sequence[View], console: Console, price: float | None) -> None:
    """Show runs until all have ended, or until Ctrl-C. They are read, never touched."""
    from rich.live import Live

    with (
        contextlib.suppress(KeyboardInterrupt, Stopped),
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        while True:
            for view in views:
                view.refresh()
            live.update(render(views, console.width, console.height, price), refresh=True)
            if not any(view.standing.is_alive for view in views):
                break
            time.sleep(REFRESH_SECONDS)
    console.print(render(views, console.width, min(console.height, 24), price))


def render(views: Sequence[View], width: int, height: int, price: float | None = None) -> RenderableType:
    """One run with its curve, or a line a run."""
    if len(views) == 1:
        view = views[0]
        on_gpu = view.plan is not None and view.plan.device == "cuda"
        return render_one(view, loads(view.standing, on_gpu), width, height, price)
    return Group(*[line for view in views[: max(1, height - 1)] for line in _short(view, width)])


def render_one(view: View, devices: Sequence[Load], width: int, height: int, price: float | None) -> RenderableType:
    """The whole screen of one run, `height` lines of at most `width` characters."""
    head = [_headline(view, width), _bar(view, width)]
    numbers = [_cut(line, width) for line in (*_facts(view, width, price), *(load.describe() for load in devices))]
    room = height - len(head) - len(numbers) - 2
    wrote = _wrote(view, width)[: max(0, min(3, room - LEAST_CHART_ROWS))]
    room -= len(wrote)
    log = [line for line in view.log if not _SAMPLE.match(line)] if wrote else view.log
    log_rows = min(len(log), max(0, min(6, room - LEAST_CHART_ROWS)))
    chart_rows = max(0, min(16, room - log_rows))
    lines: list[Text] = [*head, *numbers]
    if chart_rows >= LEAST_CHART_ROWS:
        lines += _chart(view, width, chart_rows)
    lines += wrote
    if log_rows:
        lines += [_cut(redact(visible(line)), width, "dim") for line in log[-log_rows:]]
    return Group(*lines[:height])


def _wrote(view: View, width: int) -> list[Text]:
    """The texts of the last evaluation, a line each."""
    if view.samples is None:
        return []
    texts = (" ".join(visible(text.whole).split()) for text in view.samples.texts)
    return [_cut(f"step {view.samples.step}: {redact(text)}", width, "italic") for text in texts]


def _headline(view: View, width: int) -> Text:
    found = view.standing
    text = Text(view.name, "bold")
    text.append("  ")
    text.append(found.state, STATE_STYLES.get(found.state, ""))
    if found.why and found.why != "training":
        text.append(f"  {redact(visible(found.why))}")
    if view.plan is not None:
        text.append(f"  {view.plan.method}, {view.plan.precision} on {view.plan.device}", "dim")
    text.truncate(width)
    return text


def _bar(view: View, width: int) -> Text:
    found = view.standing
    total = max(1, found.num_steps or found.step)
    told = f" {progress(view)}"
    columns = max(8, min(40, width - len(told)))
    done = round(columns * min(1.0, found.step / total))
    text = Text("━" * done, "green")
    text.append("━" * (columns - done), "dim")
    text.append(told)
    text.truncate(width)
    return text


def _facts(view: View, width: int, price: float | None) -> list[str]:
    """Numbers, as many to a line as fit."""
    lines, line = [""], ""
    for part in map(str, facts(view, price)):
        line = f"{lines[-1]}   {part}".strip()
        if lines[-1] and len(line) > width:
            lines.append(part)
        else:
            lines[-1] = line
    return lines


def _chart(view: View, width: int, rows: int) -> list[Text]:
    lines = [Line(view.train.points, "cyan")]
    if view.base_loss is not None:
        lines.append(Line([(0, view.base_loss)], "dim", level=True))
    if len(view.held_out.points) > 1:
        lines.append(Line(view.held_out.points, "bold yellow"))
    drawn = draw([line for line in lines if line.points], width, rows - 1)
    if not drawn:
        return []
    legend = Text(" " * 8 + "training", "cyan")
    legend.append("  held-out", "bold yellow")
    legend.append("  base", "dim")
    legend.truncate(width)
    texts = []
    for row in drawn:
        text = Text()
        for cell in row:
            text.append(cell.text, cell.style)
        texts.append(text)
    return [*texts, legend]


def _short(view: View, width: int) -> list[Text]:
    """One run in a line."""
    found = view.standing
    text = Text(f"{view.name[:24]:24} ", "bold")
    text.append(f"{found.state:9}", STATE_STYLES.get(found.state, ""))
    text.append(f" {found.step:>6,}/{found.num_steps or found.step:<6,}")
    if found.loss is not None:
        text.append(f" loss {found.loss:.3f}")
    if found.eval_loss is not None:
        text.append(f"  held-out {found.eval_loss:.3f}")
    if found.seconds_left is not None:
        text.append(f"  {format_seconds(found.seconds_left)} left")
    elif found.why:
        text.append(f"  {redact(visible(found.why))}", "dim")
    text.truncate(width)
    return [text]


def _cut(line: str, width: int, style: str = "") -> Text:
    text = Text(line, style)
    text.truncate(width)
    return text
