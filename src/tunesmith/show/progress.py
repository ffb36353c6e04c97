"""What a person sees while a run goes on."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from tunesmith.redact import redact
from tunesmith.run.artefacts import EvalScores, Event, MetricsLine
from tunesmith.show.doing import Doing
from tunesmith.show.notebook import NotebookLine, publisher

LINE_SECONDS, EARLY_LINE_SECONDS, EARLY_SECONDS = 30.0, 4.0, 60.0
"""Between two lines where there is no terminal, and in the first minute."""


class Progress:
    """What is done before and after the steps; while they are made, a bar with loss, tokens/s, memory and time left.

    In a notebook the bar is drawn in the output of the cell. Without a terminal, lines: one every few seconds in the
    first minute, then one every half minute.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._step = self._num_steps = 0
        self._left = ""
        self._begun = self._last_line = 0.0
        self._doing: Doing | None = None
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._cell: NotebookLine | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def doing(self, stage: str) -> None:
        if self._doing is None:
            self._stop()
            self._doing = Doing(self.console).__enter__()
        self._doing(stage)

    def started(self, step: int, num_steps: int) -> None:
        self._stop()
        self._step, self._num_steps, self._begun = step, num_steps, time.monotonic()
        if self.console.is_terminal and not self.console.quiet:
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.completed}/{task.total}"),
                TextColumn("{task.fields[numbers]}"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[left]}"),
                console=self.console,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("training", total=num_steps, completed=step, numbers="", left="")
        elif (display := publisher(self.console)) is not None:
            self._cell = NotebookLine(display)
            self._cell.draw("training", step, num_steps, now=True)

    def stepped(self, line: MetricsLine, seconds_left: float | None) -> None:
        self._step = line.step
        self._left = "" if seconds_left is None else f"{format_seconds(seconds_left)} left"
        numbers = (
            f"loss {line.loss or 0:.3f}  {line.tokens_per_second or 0:,.0f} tokens/s  "
            f"{(line.peak_bytes or 0) / 1e9:.1f} GB"
        )
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._step, description="training", left=self._left, numbers=numbers)
        elif self._cell is not None:
            told = f"{numbers}  {self._left}".rstrip()
            self._cell.draw(told, self._step, self._num_steps, now=self._step == self._num_steps)
        elif self._line_is_due() or self._step == self._num_steps:
            self.note(f"step {self._step}/{self._num_steps}  {numbers}  {self._left}".rstrip())

    def evaluating(self, done: int, total: int) -> None:
        if self._doing is not None:
            self._doing("scoring the base model", done, total)
        elif self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=f"evaluating {done}/{total}")
        elif self._cell is not None:
            self._cell.draw(f"evaluating {done:,} of {total:,} documents", self._step, self._num_steps)
        elif self._line_is_due():
            self.note(f"step {self._step}/{self._num_steps}  evaluating {done:,} of {total:,} documents")

    def evaluated(self, step: int, scores: EvalScores) -> None:
        name = "base model" if step == 0 else f"step {step}"
        self.note(f"{name}: held-out loss {scores.eval_loss:.3f}, perplexity {scores.eval_perplexity:.1f}")

    def happened(self, event: Event) -> None:
        """It was noted too."""

    def note(self, message: str) -> None:
        self._last_line = time.monotonic()
        try:
            self.console.print(redact(message), highlight=False, markup=False, soft_wrap=True)
        except (OSError, SystemExit):  # rich exits on a broken pipe; a run goes on without its reader
            self.console.quiet = True

    def _line_is_due(self) -> bool:
        now = time.monotonic()
        pause = EARLY_LINE_SECONDS if now - self._begun < EARLY_SECONDS else LINE_SECONDS
        return now - self._last_line >= pause

    def _stop(self) -> None:
        """End what is live: rich shows one such thing at a time."""
        if self._doing is not None:
            self._doing.__exit__(None, None, None)
            self._doing = None
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None
        self._cell = None


def format_seconds(seconds: float) -> str:
    """45 s, 3 min 20 s, 2 h 5 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
