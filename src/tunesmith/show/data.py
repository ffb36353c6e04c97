"""What a person sees while data is prepared: a live line on a terminal, elsewhere a line every ten seconds.

Data that is small or cached is there before the first line.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

LINE_SECONDS = 10.0
LIVE_SECONDS = 0.5


class DataProgress:
    """Call it with (stage, done, total or None), as `prepare` does."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live: Status | None = None
        self._stage, self._begun = "", 0.0
        self._said = time.monotonic()

    def __enter__(self) -> DataProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._begun = stage, now
        if now - self._said < (LIVE_SECONDS if self.console.is_terminal else LINE_SECONDS):
            return
        self._said = now
        self._show(f"data: {stage}{_amount(done, total)}, {now - self._begun:.0f} s")

    def _show(self, line: str) -> None:
        if not self.console.is_terminal:
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
