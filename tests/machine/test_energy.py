"""Energy by a counter: since the run began, and nothing where there is no counter."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tunesmith.machine.energy import EnergyMeter, gpu_millijoules
from tunesmith.run.artefacts import Plan
from tunesmith.training.clock import Clock, Spent


@pytest.mark.parametrize(
    ("values", "joules"),
    [((5_000, 9_500), 4.5), ((5_000, 5_000), 0.0), ((None, None), None), ((5_000, None), None), ((9_000, 1_000), None)],
)
def test_joules_since_the_beginning(values: tuple[int | None, int | None], joules: float | None) -> None:
    left = list(values)
    meter = EnergyMeter(lambda: left.pop(0) if left else None)
    assert meter.joules() == joules


def test_without_a_gpu_there_is_no_number() -> None:
    assert gpu_millijoules(["no-such-card"]) is None
    assert gpu_millijoules([]) is None


def test_a_run_that_goes_on_adds_to_what_it_took(new_plan: Callable[..., Plan]) -> None:
    clock = Clock(new_plan(), EnergyMeter(iter([1_000, 3_000, 3_000, 9_000]).__next__))
    assert clock.spent().joules == 2.0
    clock.restore(Spent(total=10.0, joules=100.0))
    assert clock.spent().joules == 102.0
    clock.restore(Spent(total=10.0, joules=None))
    assert clock.spent().joules is None, "a part of it was not measured"
    assert Clock(new_plan()).spent().joules is None
