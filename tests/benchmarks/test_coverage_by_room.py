"""Every room has a floor and tests of its own, and a room below its floor fails."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "coverage_by_room.py"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def test_every_room_has_a_floor_or_is_named_as_without(script: dict[str, Any]) -> None:
    assert script["FLOORS"].keys() | script["WITHOUT"] == script["rooms_of_source"]()
    assert not script["FLOORS"].keys() & script["WITHOUT"]
    assert list(script["FLOORS"]) == sorted(script["FLOORS"])


def test_every_room_has_tests_of_its_own(script: dict[str, Any]) -> None:
    assert [room for room in script["rooms_of_source"]() if not script["tests_of"](room)] == []


@pytest.mark.slow
def test_a_room_below_its_floor_fails(script: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("coverage")
    assert script["main"](["units"]) == 0
    script["FLOORS"]["units"] = 101
    assert script["main"](["units"]) == 1
    assert "| units | 100.0% | 101% |" in capsys.readouterr().out
