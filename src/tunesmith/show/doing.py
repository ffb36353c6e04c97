"""What is being done, said at once and again while it lasts: a live line on a terminal or in a notebook, else a line
now and then.

A thread of its own says it again, so that a stage that has nothing to count (libraries that load, a plan that is
traced) is not silent either.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING

from tunesmith.show.notebook import NotebookLine, publisher

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

LOADING = "loading torch and transformers"
"""What every command that needs a model does first, for some seconds."""
LINE_SECONDS = 4.0
"""Between two lines where there is no terminal: nobody waits for five seconds without a word."""
LIVE_SECONDS = 0.5
LONG_SECONDS, LONG_LINE_SECONDS = 60.0, 30.0
"""A stage that takes longer than this is told of less often: who watches knows by then, and a log stays short."""


class Doing:
    """Inside `with`, call it with what is done now, and with (stage, done, total or None) where that is counted.

    A stage is said when it begins. `subject` opens each line: "data: reading rows 20,000, 8 s".
    """

    def __init__(self, console: Console, subject: str = "") -> None:
        self.console = console
        self._subject = f"{subject}: " if subject else ""
        self._live: Status | None = None
        display = publisher(console)
        self._cell = None if display is None else NotebookLine(display)
        self._stage, self._amount, self._begun, self._said = "", "", 0.0, 0.0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Doing:
        if not self.console.quiet:
            self._thread = threading.Thread(target=self._repeat, name="tunesmith-doing", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        if self._live is not None:
            self._live.stop()

    def __call__(self, stage: str, done: int = 0, total: int | None = None) -> None:
        with self._lock:
            self._amount = _amount(done, total)
            if stage == self._stage:
                self._say_if_due()
                return
            self._stage, self._begun = stage, time.monotonic()
            self._say(f"{self._subject}{stage}{self._amount}")

    def repeat(self) -> None:
        """Say it again when that is due."""
        with self._lock:
            if self._stage:
                self._say_if_due()

    def _repeat(self) -> None:
        while not self._over.wait(LIVE_SECONDS):
            self.repeat()

    def _say_if_due(self) -> None:
        now = time.monotonic()
        lasted = now - self._begun
        pause = LONG_LINE_SECONDS if lasted > LONG_SECONDS else LINE_SECONDS
        if now - self._said >= (LIVE_SECONDS if self.console.is_terminal or self._cell is not None else pause):
            self._say(f"{self._subject}{self._stage}{self._amount}, {lasted:.0f} s")

    def _say(self, line: str) -> None:
        self._said = time.monotonic()
        try:
            self._show(line)
        except (OSError, SystemExit):  # rich exits on a broken pipe; the work goes on without its reader
            self.console.quiet = True

    def _show(self, line: str) -> None:
        if self._cell is not None:
            self._cell.draw(line, now=True)
        elif not self.console.is_terminal:
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)
        elif self._live is None:
            self._live = self.console.status(line)
            self._live.start()
        else:
            self._live.update(line)


def _amount(done: int, total: int | None) -> str:
    if total is None:
        return f" {done:,}" if done else ""
    return f" {done:,} of {total:,}"
