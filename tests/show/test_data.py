"""What is said while data is prepared: nothing when it is quick, a line now and then when it is not."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from tunesmith.data import prepare
from tunesmith.models.tokenizer import TextTokenizer
from tunesmith.recipe import DataSection
from tunesmith.show import data as progress
from tunesmith.show.data import DataProgress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])  # type: ignore[attr-defined]
    return now


def test_a_line_every_ten_seconds(clock: list[float]) -> None:
    out = io.StringIO()
    with DataProgress(Console(file=out)) as say:
        for seconds in range(1, 26):
            clock[0] = 100.0 + seconds
            say("reading rows", seconds * 1000, None)
        clock[0] = 140.0
        say("comparing rows", 0, None)
        clock[0] = 150.0
        say("tokenising rows", 2, 25_000)
    assert out.getvalue().splitlines() == [
        "data: reading rows 10,000, 9 s",
        "data: reading rows 20,000, 19 s",
        "data: comparing rows, 0 s",
        "data: tokenising rows 2 of 25,000, 0 s",
    ]


def test_a_terminal_gets_one_live_line(clock: list[float]) -> None:
    out = io.StringIO()
    with DataProgress(Console(file=out, force_terminal=True, width=80)) as say:
        clock[0] += 1
        say("reading rows", 1000, None)
        clock[0] += 1
        say("reading rows", 2000, None)
    assert "reading rows 2,000, 1 s" in out.getvalue()


def test_quick_data_says_nothing(shows_csv: Path, tokenizer: TextTokenizer, clock: list[float]) -> None:
    out = io.StringIO()
    stages: list[tuple[str, int, int | None]] = []
    with DataProgress(Console(file=out)) as say:

        def both(stage: str, done: int, total: int | None) -> None:
            stages.append((stage, done, total))
            say(stage, done, total)

        prepare(DataSection(path=str(shows_csv), text="description", seed=91), tokenizer, 128, progress=both)
    assert out.getvalue() == ""
    assert stages[0] == ("comparing rows", 0, 750)
    assert stages[-1] == ("tokenising rows", 750, 750)
