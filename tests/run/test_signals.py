"""The first signal asks, the second ends, and what was there before comes back."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from tunesmith.errors import Stopped
from tunesmith.run import signals as module
from tunesmith.run.signals import StopRequest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_asks_for_a_stop(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(number)
    with StopRequest("tunesmith train --resume") as stop:
        stop.check()
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        assert stop.reason == number.name
        with pytest.raises(Stopped, match=rf"stopped: {number.name}\. Resume with: tunesmith train --resume"):
            stop.check()
    assert signal.getsignal(number) is before
    assert f"{number.name}: saving at the end of this step" in capfd.readouterr().err


def test_inside_at_once_a_signal_raises_where_it_comes() -> None:
    with StopRequest("x") as stop:
        went_on = began = False
        with pytest.raises(Stopped, match="SIGTERM"), stop.at_once():  # noqa: PT012
            os.kill(os.getpid(), signal.SIGTERM)
            went_on = True
        with pytest.raises(Stopped), stop.at_once():
            began = True
        assert not went_on
        assert not began


def test_a_stop_that_a_library_swallows_is_raised_at_the_end() -> None:
    with StopRequest("x") as stop, pytest.raises(Stopped), stop.at_once(), contextlib.suppress(Exception):
        os.kill(os.getpid(), signal.SIGTERM)


def exit_status(numbers: list[signal.Signals], pause: float) -> int:
    """How a child ends that is sent `numbers`, `pause` seconds apart as its clock shows."""
    child = os.fork()
    if child == 0:
        now = [100.0]
        module.time.monotonic = lambda: now[0]
        with StopRequest("x"):
            for number in numbers:
                os.kill(os.getpid(), number)
                now[0] += pause
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_second_signal_exits_at_once() -> None:
    assert exit_status([signal.SIGTERM, signal.SIGTERM], 1) == 128 + signal.SIGTERM
    assert exit_status([signal.SIGTERM, signal.SIGINT], 1) == 128 + signal.SIGINT


def test_a_signal_that_was_passed_on_or_a_repeated_hangup_is_one_request() -> None:
    assert exit_status([signal.SIGINT, signal.SIGINT], 0.1) == 0
    assert exit_status([signal.SIGHUP, signal.SIGHUP], 1) == 0
    assert exit_status([signal.SIGTERM, signal.SIGHUP], 1) == 0


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest("x") as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_no_terminal_left_is_no_error() -> None:
    child = os.fork()
    if child == 0:
        os.close(2)
        with StopRequest("x") as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            os._exit(7 if stop.requested else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_thread_can_use_it_without_handlers() -> None:
    found: list[bool] = []

    def work() -> None:
        with StopRequest("x") as stop:
            stop.ask("time limit")
            found.append(stop.requested)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [True]
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_first_reason_stays(tmp_path: Path) -> None:
    stop = StopRequest("x")
    stop.ask("a time limit")
    stop.ask("something else")
    assert str(stop.stopped()) == "stopped: a time limit. Resume with: x"
    assert time.monotonic() > 0
