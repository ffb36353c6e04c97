"""What a person sees while a run goes on, and status.json for other programs."""

from __future__ import annotations

import os
import time
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from tunesmith.redact import redact
from tunesmith.run.directory import STATUS, RunDir

LINE_SECONDS = 30.0
STATUS_SECONDS = 1.0


class _Scores(Protocol):
    @property
    def loss(self) -> float: ...
    @property
    def perplexity(self) -> float: ...


class Progress:
    """A bar with loss, tokens/s, memory and time left; without a terminal, a line every half minute."""

    def __init__(self, run_dir: RunDir, num_steps: int, console: Console | None = None, *, quiet: bool = False) -> None:
        self.run_dir, self.num_steps = run_dir, num_steps
        self.console = console or Console(stderr=True, quiet=quiet)
        self._step, self._started, self._start_step = 0, time.monotonic(), 0
        self._last_line = self._last_status = 0.0
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
            self._task = self._bar.add_task("training", total=self.num_steps, numbers="", left="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self.run_dir.writes:
            self.run_dir.file(STATUS).unlink(missing_ok=True)

    def start(self, step: int) -> None:
        """Training begins after `step` steps that are already done."""
        self._step = self._start_step = step
        self._started = time.monotonic()
        self._update("training", "")

    def stepped(self, line: dict[str, Any]) -> None:
        """A line of metrics.jsonl was written."""
        self._step = int(line["step"])
        numbers = (
            f"loss {line['loss']:.3f}  {line['tokens_per_second']:,.0f} tokens/s  {line['peak_bytes'] / 1e9:.1f} GB"
        )
        self._update("training", numbers)
        self._write_status("training", line)
        now = time.monotonic()
        if self._bar is None and (now - self._last_line > LINE_SECONDS or self._step == self.num_steps):
            self._last_line = now
            self._say(f"step {self._step}/{self.num_steps}  {numbers}  {self._left()}")

    def evaluating(self, done: int, total: int) -> None:
        """Part of the held-out documents is scored."""
        self._update(f"evaluating {done}/{total}", None)
        self._write_status("evaluating", {"done": done, "total": total})

    def evaluated(self, step: int, scores: _Scores) -> None:
        name = "base model" if step == 0 else f"step {step}"
        self._say(f"{name}: held-out loss {scores.loss:.3f}, perplexity {scores.perplexity:.1f}")

    def note(self, message: str) -> None:
        """Something happened that the user should know; also goes to log.txt."""
        self._say(message)

    def _say(self, message: str) -> None:
        message = redact(message)
        self.run_dir.log(message)
        try:
            self.console.print(message, highlight=False, markup=False, soft_wrap=True)
        except (OSError, SystemExit):  # rich exits on a broken pipe; a run goes on without its reader
            self.console.quiet = True

    def _left(self) -> str:
        done = self._step - self._start_step
        if done <= 0:
            return ""
        seconds = (time.monotonic() - self._started) / done * (self.num_steps - self._step)
        return f"{format_seconds(seconds)} left"

    def _update(self, description: str, numbers: str | None) -> None:
        if self._bar is None or self._task is None:
            return
        fields: dict[str, Any] = {} if numbers is None else {"numbers": numbers}
        self._bar.update(self._task, completed=self._step, description=description, left=self._left(), **fields)

    def _write_status(self, state: str, values: dict[str, Any]) -> None:
        now = time.monotonic()
        if now - self._last_status < STATUS_SECONDS and self._step < self.num_steps:
            return
        self._last_status = now
        self.run_dir.write_json(
            STATUS,
            {
                "state": state,
                "pid": os.getpid(),
                "step": self._step,
                "num_steps": self.num_steps,
                "left": self._left(),
                "updated": time.time(),
                **values,
            },
        )


def format_seconds(seconds: float) -> str:
    """45 s, 3 min 20 s, 2 h 5 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
