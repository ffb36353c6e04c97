"""What a person sees of a run: stages, then a bar on a terminal or lines elsewhere; never two live things at a time."""

from __future__ import annotations

import io
from itertools import pairwise

import pytest
from rich.console import Console

from tunesmith.run.artefacts import EvalScores, MetricsLine
from tunesmith.show import progress as module
from tunesmith.show.progress import Progress

SCORES = EvalScores(eval_loss=3.0, eval_perplexity=20.1, eval_bits_per_byte=1.0, eval_token_accuracy=0.3)


def line(step: int) -> MetricsLine:
    return MetricsLine(step=step, epoch=0.5, time=1.0, loss=2.5, tokens_per_second=300.0, peak_bytes=2_000_000_000)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_without_a_terminal_lines_come_often_at_first_and_seldom_later(clock: Clock) -> None:
    out = io.StringIO()
    with Progress(Console(file=out, width=200)) as progress:
        progress.doing("loading the model")
        progress.evaluated(0, SCORES)
        progress.started(0, 100)
        for step in range(1, 101):
            clock.now += 2
            progress.stepped(line(step), 200.0 - 2 * step)
    told = [text for text in out.getvalue().splitlines() if text.startswith("step ")]
    steps = [int(text.split()[1].split("/")[0]) for text in told]
    assert steps[:3] == [2, 4, 6], "a line every four seconds"
    assert steps[-1] == 100
    late = [step for step in steps if 30 < step < 100]
    assert all(after - before == 15 for before, after in pairwise(late)), "one every half minute"
    assert "loading the model" in out.getvalue()
    assert "base model: held-out loss 3.000" in out.getvalue()
    assert "2 min 40 s left" in out.getvalue()


def test_a_long_evaluation_is_not_silent(clock: Clock) -> None:
    out = io.StringIO()
    with Progress(Console(file=out, width=200)) as progress:
        progress.started(5, 10)
        for done in range(1, 9):
            clock.now += 2
            progress.evaluating(done, 8)
    assert out.getvalue().splitlines() == [f"step 5/10  evaluating {done} of 8 documents" for done in (2, 4, 6, 8)]


def test_a_terminal_shows_one_live_thing_at_a_time() -> None:
    out = io.StringIO()
    with Progress(Console(file=out, width=140, force_terminal=True)) as progress:
        progress.doing("trying the largest step")
        progress.evaluating(1, 2)
        progress.started(0, 2)
        progress.stepped(line(1), 1.0)
        progress.evaluating(1, 2)
        progress.stepped(line(2), 0.0)
        progress.doing("saving the model")
    assert "scoring the base model 1 of 2" in out.getvalue()
    assert "2/2" in out.getvalue()
    assert "saving the model" in out.getvalue()
