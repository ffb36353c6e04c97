"""SIGTERM, SIGINT: saved at the next safe point, exit 75, and the same end when it goes on. SIGHUP: the run goes on."""

from __future__ import annotations

import json
import shlex
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fault_sample import sample

if TYPE_CHECKING:
    from conftest import Lab

# place, number of the visit, step of the checkpoint that must be there afterwards (None: too early for one)
PLACES: list[tuple[str, int, int | None]] = [
    ("tokenise", 1, None),
    ("load", 1, None),
    ("eval", 1, None),
    ("step", 1, 1),
    ("step", 6, 6),
    ("save", 1, 3),
    ("eval", 2, 5),
    ("step", 12, 12),
    ("eval", 4, 12),
    ("save", 4, 12),
    ("end", 1, 12),
]
SIGNALS = (signal.SIGTERM, signal.SIGINT)
CASES = [(*place, number) for place in PLACES for number in SIGNALS]
PER_CHANGE = [2 * place + number for place, number in ((0, 0), (2, 1), (4, 0), (7, 0), (8, 1))]


def without_forced_lines(found: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    """A stop saves, and so logs, a step that would not have been logged; every other line must be equal."""
    steps = {(line["step"], "loss" in line) for line in expected["metrics"]}
    return {**found, "metrics": [line for line in found["metrics"] if (line["step"], "loss" in line) in steps]}


@pytest.mark.row("SIGTERM, SIGINT: saved, exit 75, resumed")
@pytest.mark.parametrize(("at", "nth", "step", "number"), sample(CASES, *PER_CHANGE))
def test_a_signal_stops_and_the_run_goes_on_as_if_nothing_had_been(
    lab: Lab, out: Path, at: str, nth: int, step: int | None, number: signal.Signals
) -> None:
    recipe = lab.recipe("full", data__seed=nth + SIGNALS.index(number)) if at == "tokenise" else lab.recipe("full")
    child = lab.train(recipe, out, fault={"kind": "send", "number": number, "at": at, "nth": nth})
    code = child.wait()
    if (at, nth) in (("save", 4), ("end", 1)):  # everything is done but the writing of the model: it is finished
        assert code == 0, child.output
        assert lab.outcome(out) == lab.reference("full")
        return
    assert code == 75, child.output
    assert f"stopped: {number.name}" in child.output
    assert not (out / "model").exists()
    assert not (out / "lock").exists()
    saved = sorted(path.name for path in (out / "checkpoints").glob("step-*"))
    assert (f"step-{step}" in saved) if step is not None else not saved
    if step is not None and step < 12:
        assert json.loads((out / "result.json").read_text())["stopped"] == number.name
        resume = child.output.split("Resume with: ")[1].split("\n")[0]
        arguments = shlex.split(resume)[1:]
        again = lab.zygote.start("tunesmith", arguments=arguments)
        assert again.wait() == 0, again.output
        assert without_forced_lines(lab.outcome(out), lab.reference("full")) == lab.reference("full")
    elif at != "tokenise":
        assert lab.finish(recipe, out) == lab.reference("full")
    else:
        lab.finish(recipe, out)


@pytest.mark.row("SIGHUP: the run goes on")
@pytest.mark.parametrize(("at", "nth"), sample([place[:2] for place in PLACES], 0, 4, 6))
def test_a_hangup_is_no_stop(lab: Lab, out: Path, at: str, nth: int) -> None:
    recipe = lab.recipe("full", data__seed=90 + nth) if at == "tokenise" else lab.recipe("full")
    child = lab.train(recipe, out, fault={"kind": "send", "number": signal.SIGHUP, "at": at, "nth": nth})
    assert child.wait() == 0, child.output
    if at != "tokenise":
        assert lab.outcome(out) == lab.reference("full")


@pytest.mark.row("SIGHUP with --stop-on-hangup: saved, exit 75, resumed")
def test_a_hangup_is_a_stop_where_that_is_asked_for(lab: Lab, out: Path) -> None:
    fault = {"kind": "send", "number": signal.SIGHUP, "at": "step", "nth": 5}
    child = lab.train("full", out, "--stop-on-hangup", fault=fault)
    assert child.wait() == 75, child.output
    assert "stopped: SIGHUP" in child.output
    assert (out / "checkpoints" / "step-5").is_dir()
    assert without_forced_lines(lab.finish("full", out), lab.reference("full")) == lab.reference("full")


@pytest.mark.row("a signal while text is written: exit 75, the command again")
@pytest.mark.parametrize("number", sample(SIGNALS, 1))
def test_a_signal_ends_a_comparison_that_can_be_made_again(lab: Lab, number: signal.Signals) -> None:
    lab.reference("plain")
    run = lab.folder / "reference-plain"
    child = lab.zygote.start(
        "tunesmith", {"kind": "send", "number": number, "at": "generate"}, arguments=["compare", str(run)]
    )
    assert child.wait() == 75, child.output
    assert f"stopped: {number.name}. Resume with: tunesmith compare {run}" in child.output
    assert not (run / "compare.json").exists()


@pytest.mark.row("a second signal: exit at once, resumed")
@pytest.mark.parametrize("number", sample([signal.SIGTERM, signal.SIGINT], 0))
def test_a_second_signal_exits_at_once(lab: Lab, out: Path, number: signal.Signals) -> None:
    fault = {"kind": "send", "number": number, "at": "step", "nth": 5, "again": True}
    child = lab.train("full", out, fault=fault)
    assert child.wait() == 128 + number
    assert "exiting at once" in child.output
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-3"]
    assert lab.finish("full", out) == lab.reference("full")


@pytest.mark.row("the reader of a pipe is gone: the run goes on")
def test_a_broken_pipe_does_not_end_the_run(lab: Lab, out: Path) -> None:
    child = lab.train("full", out, fault={"kind": "break_pipe", "nth": 5})
    child.wait()
    assert lab.outcome(out) == lab.reference("full")


@pytest.mark.row("the terminal is gone (SSH drop): the run goes on")
def test_a_lost_terminal_does_not_end_the_run(lab: Lab, out: Path) -> None:
    child = lab.train("full", out, fault={"kind": "lose_terminal", "nth": 5})
    assert child.wait() == 0
    assert f"the terminal went away; the run goes on: tunesmith attach {out.name}" in (out / "log.txt").read_text()
    assert lab.outcome(out) == lab.reference("full")


@pytest.mark.row("the terminal is gone, --stop-on-hangup: saved, resumed")
def test_a_lost_terminal_is_a_stop_where_that_is_asked_for(lab: Lab, out: Path) -> None:
    child = lab.train("full", out, "--stop-on-hangup", fault={"kind": "lose_terminal", "nth": 5})
    assert child.wait() == 75
    assert (out / "checkpoints" / "step-5").is_dir()
    assert without_forced_lines(lab.finish("full", out), lab.reference("full")) == lab.reference("full")
