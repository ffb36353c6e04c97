"""What is said while something is done: its name at once, and again while it lasts."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tunesmith.data import prepare
from tunesmith.models.tokenizer import TextTokenizer
from tunesmith.recipe import DataSection
from tunesmith.show import doing as module
from tunesmith.show.doing import Doing


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_stage_is_said_when_it_begins_and_again_every_four_seconds(clock: list[float]) -> None:
    out = io.StringIO()
    doing = Doing(Console(file=out), "data")
    for seconds in range(10):
        clock[0] = 100.0 + seconds
        doing("reading rows", seconds * 1000, None)
    clock[0] = 110.0
    doing("comparing rows", 0, None)
    doing("tokenising rows", 2, 25_000)
    assert out.getvalue().splitlines() == [
        "data: reading rows",
        "data: reading rows 4,000, 4 s",
        "data: reading rows 8,000, 8 s",
        "data: comparing rows",
        "data: tokenising rows 2 of 25,000",
    ]


def test_a_stage_that_counts_nothing_is_said_again_too(clock: list[float]) -> None:
    out = io.StringIO()
    doing = Doing(Console(file=out))
    doing.repeat()
    doing("planning")
    for seconds in range(1, 130):
        clock[0] = 100.0 + seconds
        doing.repeat()
    lines = out.getvalue().splitlines()
    assert lines[:3] == ["planning", "planning, 4 s", "planning, 8 s"]
    assert lines[-3:] == ["planning, 60 s", "planning, 90 s", "planning, 120 s"]


def test_the_thread_that_repeats_ends_with_the_work() -> None:
    before = threading.active_count()
    with Doing(Console(file=io.StringIO())) as doing:
        doing("planning")
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_a_terminal_gets_one_live_line(clock: list[float]) -> None:
    out = io.StringIO()
    with Doing(Console(file=out, force_terminal=True, width=80)) as doing:
        doing("reading rows", 1000, None)
        clock[0] += 1
        doing("reading rows", 2000, None)
    assert "reading rows 2,000, 1 s" in out.getvalue()


def test_a_reader_that_went_away_stops_nothing(clock: list[float]) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    console = Console(file=Gone())
    Doing(console)("planning")
    assert console.quiet


def test_preparing_tells_each_stage_once(shows_csv: Path, tokenizer: TextTokenizer, clock: list[float]) -> None:
    out = io.StringIO()
    stages: list[Any] = []
    doing = Doing(Console(file=out))

    def both(*told: Any) -> None:
        stages.append(told)
        doing(*told)

    prepare(DataSection(path=str(shows_csv), text="description", seed=91), tokenizer, 128, progress=both)
    assert out.getvalue().splitlines() == ["comparing rows 0 of 750", "tokenising rows 0 of 750"]
    assert stages[0] == ("comparing rows", 0, 750)
    assert stages[-1] == ("tokenising rows", 750, 750)
