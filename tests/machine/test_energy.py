"""Energy by a counter: since the run began, and nothing where there is no counter."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace

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
    assert gpu_millijoules(["no-such-card"])() is None
    assert gpu_millijoules([])() is None


def test_the_library_is_opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def handle(uuid: str) -> str:
        opened.append(uuid)
        return uuid

    library = SimpleNamespace(
        nvmlInit=lambda: opened.append("library"),
        nvmlDeviceGetHandleByUUID=handle,
        nvmlDeviceGetTotalEnergyConsumption={"GPU-a": 3, "GPU-b": 4}.__getitem__,
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    read = gpu_millijoules(["a", "b"])
    assert [read(), read()] == [7, 7]
    assert opened == ["library", "GPU-a", "GPU-b"]
    library.nvmlDeviceGetTotalEnergyConsumption = {}.__getitem__
    assert read() is None


def test_time_is_told_without_a_look_at_the_counter(new_plan: Callable[..., Plan]) -> None:
    looks = iter([1_000])
    clock = Clock(new_plan(), EnergyMeter(looks.__next__))
    assert clock.training_seconds() >= 0.0
    assert clock.seconds_left(10, 10) is None


def test_a_run_that_goes_on_adds_to_what_it_took(new_plan: Callable[..., Plan]) -> None:
    clock = Clock(new_plan(), EnergyMeter(iter([1_000, 3_000, 3_000, 9_000]).__next__))
    assert clock.spent().joules == 2.0
    clock.restore(Spent(total=10.0, joules=100.0))
    assert clock.spent().joules == 102.0
    clock.restore(Spent(total=10.0, joules=None))
    assert clock.spent().joules is None, "a part of it was not measured"
    assert Clock(new_plan()).spent().joules is None
