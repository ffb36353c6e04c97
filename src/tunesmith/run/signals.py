"""A signal asks for a stop; the run answers at its next safe point.

SIGTERM (a preempted machine) and SIGINT (Ctrl-C) set a flag, and so does SIGHUP (a lost terminal) where that is asked
for; a run lets go of its terminal instead and goes on. The loop reads the flag between optimizer steps, saves, and
raises Stopped (exit code 75); loops before and between steps call `check`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import threading
import time
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

from tunesmith.errors import Stopped

_HANGUP: signal.Signals | None = getattr(signal, "SIGHUP", None)  # Windows has none
SIGNALS = tuple(number for number in (signal.SIGTERM, signal.SIGINT, _HANGUP) if number is not None)
_SAME_REQUEST_SECONDS = 0.25
"""Launchers pass a signal on that the terminal has already sent to the whole group; that is one request."""


class StopRequest:
    """Turns the first signal into a request to stop and lets the second end the process at once.

    `resume` is the command that goes on with the run. stop_on_hangup: whether a lost terminal is a request too. What
    was ignored on entry stays ignored, so that nohup works; handlers are restored on exit. Outside the main thread,
    where Python sets no handlers, only `ask` stops.
    """

    def __init__(self, resume: str, *, stop_on_hangup: bool = True) -> None:
        self.resume, self.stop_on_hangup = resume, stop_on_hangup
        self.hung_up = False
        """The terminal went away."""
        self.reason: str | None = None
        self._time = 0.0
        self._raise = False
        self._before: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        return self.reason is not None

    def ask(self, reason: str) -> None:
        """Ask for a stop from within, as a time limit does. The first reason stays."""
        self.reason = self.reason or reason

    def check(self) -> None:
        """Raise Stopped when a stop was asked for. For loops that hold nothing worth saving."""
        if self.reason is not None:
            raise self.stopped()

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, a signal raises Stopped where it finds the main thread: for work that can simply be done again."""
        self.check()
        before, self._raise = self._raise, True
        try:
            yield
        finally:
            self._raise = before
        self.check()  # some library may have swallowed the exception

    def stopped(self) -> Stopped:
        """The exception that ends the run with the reason and the command that resumes it."""
        return Stopped(self.reason or "asked to stop", self.resume)

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                before = signal.getsignal(number)
                if before is not signal.SIG_IGN:
                    self._before[number] = before
                    signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before if before is not None else signal.SIG_DFL)
        self._before.clear()

    def _handle(self, number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name
        if number == _HANGUP:
            _let_go_of_terminal()
            self.hung_up = True
            if not self.stop_on_hangup:
                return
        if self.reason is None:
            self.reason, self._time = name, time.monotonic()
            if self._raise:
                raise self.stopped()
            _tell(f"\n{name}: saving at the end of this step. Once more to exit at once, losing what is not saved.\n")
        elif number != _HANGUP and time.monotonic() - self._time > _SAME_REQUEST_SECONDS:
            _tell(f"\n{name} again: exiting at once.\n")
            os._exit(128 + number)  # nothing is released: the lock is seen to be stale, a half save is not a checkpoint


def _let_go_of_terminal() -> None:
    """Send output nowhere when its terminal is gone: from then on every write to it would fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
                os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _tell(text: str) -> None:
    """Write to standard error as a handler may: unbuffered, and with no terminal left, not at all."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode())
