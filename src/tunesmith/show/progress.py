"""What a person sees while a run goes on."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from tunesmith.redact import redact
from tunesmith.run.artefacts import EvalScores, MetricsLine

LINE_SECONDS = 30.0


class Progress:
    """A bar with loss, tokens/s, memory and time left; without a terminal, a line every half minute."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._step = self._num_steps = 0
        self._left = ""
        self._last_line = 0.0
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Progress:
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
            self._task = self._bar.add_task("starting", total=None, numbers="", left="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def started(self, step: int, num_steps: int) -> None:
        self._step, self._num_steps = step, num_steps
        self._update("training", "")

    def stepped(self, line: MetricsLine, seconds_left: float | None) -> None:
        self._step = line.step
        self._left = "" if seconds_left is None else f"{format_seconds(seconds_left)} left"
        numbers = (
            f"loss {line.loss or 0:.3f}  {line.tokens_per_second or 0:,.0f} tokens/s  "
            f"{(line.peak_bytes or 0) / 1e9:.1f} GB"
        )
        self._update("training", numbers)
        now = time.monotonic()
        if self._bar is None and (now - self._last_line > LINE_SECONDS or self._step == self._num_steps):
            self._last_line = now
            self.note(f"step {self._step}/{self._num_steps}  {numbers}  {self._left}".rstrip())

    def evaluating(self, done: int, total: int) -> None:
        self._update(f"evaluating {done}/{total}", None)

    def evaluated(self, step: int, scores: EvalScores) -> None:
        name = "base model" if step == 0 else f"step {step}"
        self.note(f"{name}: held-out loss {scores.eval_loss:.3f}, perplexity {scores.eval_perplexity:.1f}")

    def note(self, message: str) -> None:
        try:
            self.console.print(redact(message), highlight=False, markup=False, soft_wrap=True)
        except (OSError, SystemExit):  # rich exits on a broken pipe; a run goes on without its reader
            self.console.quiet = True

    def _update(self, description: str, numbers: str | None) -> None:
        if self._bar is None or self._task is None:
            return
        if numbers is None:
            self._bar.update(self._task, description=description)
        else:
            self._bar.update(
                self._task,
                completed=self._step,
                total=self._num_steps,
                description=description,
                left=self._left,
                numbers=numbers,
            )


def format_seconds(seconds: float) -> str:
    """45 s, 3 min 20 s, 2 h 5 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
