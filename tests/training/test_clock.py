"""What is left is told by the steps that are like those to come."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tunesmith.training import clock as module
from tunesmith.training.clock import Clock, Spent


class Time:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    fake = Time()
    monkeypatch.setattr(module, "time", fake)
    return fake


def clock() -> Clock:
    plan: Any = SimpleNamespace(num_steps=10, device="cpu", eval_every=5, save_every=5)
    return Clock(plan)


def test_time_left_settles_with_the_third_step(time: Time) -> None:
    told, made = [], clock()
    time.now = 60.0  # self-test and rehearsal
    for step in range(1, 11):
        time.now += 20 if step <= 2 else 4
        if step == 5:
            with made.evaluating():
                time.now += 30
        told.append(made.seconds_left(100 * step, 1000 - 100 * step))
    assert told == [None, None, *(pytest.approx(4.0 * (10 - step)) for step in range(3, 11))]


def test_a_resumed_run_settles_anew(time: Time) -> None:
    made = clock()
    for step in (1, 2, 3):
        time.now += 50
        made.seconds_left(100 * step, 700)
    made.restore(Spent(total=150.0))
    told = []
    for step in (4, 5, 6):
        time.now += 4
        told.append(made.seconds_left(100 * step, 1000 - 100 * step))
    assert told == [None, None, pytest.approx(16.0)]


def test_a_run_of_one_step_has_none_left(time: Time) -> None:
    time.now += 1
    assert clock().seconds_left(100, 0) == 0.0
