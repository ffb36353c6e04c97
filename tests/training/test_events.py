"""What a run says of itself: a spike names its rows, and a run stopped early has no scores of its own."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tunesmith import Recipe, Stopped
from tunesmith.pipeline import prepare_inputs
from tunesmith.plan import detect_machine, make_plan
from tunesmith.run.artefacts import Event, MetricsLine, Result, Status
from tunesmith.run.directory import RunDir
from tunesmith.run.observer import Silent
from tunesmith.run.signals import StopRequest
from tunesmith.training import Job, train


class Watching(Silent):
    """Told every step; it may ask for a stop, and keeps what was noted."""

    def __init__(self, after: Callable[[int], None] = lambda step: None) -> None:
        self.after, self.notes, self.events = after, list[str](), list[Event]()

    def stepped(self, line: MetricsLine, seconds_left: float | None) -> None:
        self.after(line.step)

    def note(self, message: str) -> None:
        self.notes.append(message)

    def happened(self, event: Event) -> None:
        self.events.append(event)


def job_of(recipe: Recipe, out: Path) -> Job:
    made = prepare_inputs(recipe, lambda *doing: None, small=False)
    run_dir = RunDir.create(out)
    run_dir.write_recipe(recipe)
    plan = make_plan(recipe, made.data, detect_machine(), source=made.source)
    run_dir.write(plan)
    fingerprints = {"data": made.data.fingerprint, "model": "m"}
    return Job(recipe, plan, made.source, made.tokenizer, made.data, run_dir, fingerprints, None)


@pytest.fixture
def spiking(tmp_path: Path, tiny_llama: Path) -> Recipe:
    """Seventy rows that are learned within a few steps, and one that is like none of them."""
    strange = "".join(random.Random(7).choices("QXZ#@~^{}|0123456789", k=120))
    rows = [f"The same few words again, and again, and again: {number}." for number in range(70)]
    (tmp_path / "rows.txt").write_text("\n".join([*rows[:60], strange, *rows[60:]]), encoding="utf-8")
    (tmp_path / "held.txt").write_text("Other words.\nAnd other ones.", encoding="utf-8")
    return Recipe(
        model={"name": str(tiny_llama)},
        data={"path": str(tmp_path / "rows.txt"), "eval_path": str(tmp_path / "held.txt"), "near_duplicates": False},
        train={"learning_rate": 2e-2, "tokens_per_step": 80, "max_length": 256, "epochs": 2},
        eval={"every": 1000},
        save={"every": 1000},
    )


def test_a_loss_spike_names_the_rows_of_its_step(spiking: Recipe, tmp_path: Path) -> None:
    watching = Watching()
    job = job_of(spiking, tmp_path / "run")
    result = train(job, StopRequest("again"), watching)
    named = [event for event in result.events if "rows.txt:61" in event.note]
    assert {event.kind for event in result.events} == {"loss_spike"}
    assert watching.events == list(result.events), "told while it goes on"
    assert named
    assert "was usual, on " in named[0].note
    assert str(tmp_path) in next(note for note in watching.notes if f"step {named[0].step}: loss" in note)
    written = job.run_dir.read(Result)
    assert str(tmp_path) not in written.model_dump_json()
    assert written.hardware
    assert written.ended is not None


def test_a_run_that_stops_before_its_first_evaluation_has_no_scores_of_its_own(spiking: Recipe, tmp_path: Path) -> None:
    stop = StopRequest("the same command")
    job = job_of(spiking, tmp_path / "run")
    with pytest.raises(Stopped):
        train(job, stop, Watching(lambda step: stop.ask("SIGTERM") if step == 2 else None))
    result = job.run_dir.read(Result)
    assert (result.steps, result.stopped) == (3, "SIGTERM"), "asked while step 3 was already agreed on"
    assert result.eval_loss_base is not None
    own = ("eval_loss", "eval_perplexity", "eval_bits_per_byte", "eval_token_accuracy", "best_eval_loss", "best_step")
    assert {name: getattr(result, name) for name in own} == dict.fromkeys(own)
    assert job.run_dir.read(Status).eval_loss is None
