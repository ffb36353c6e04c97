"""kill -9: whenever it comes, the next `train` ends with the weights and numbers of a run that nothing disturbed."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fault_sample import sample

if TYPE_CHECKING:
    from conftest import Lab

KINDS = ("full", "lora")


@pytest.mark.row("control: two undisturbed runs are equal")
@pytest.mark.parametrize("kind", KINDS)
def test_two_undisturbed_runs_are_equal(lab: Lab, out: Path, kind: str) -> None:
    assert lab.finish(kind, out) == lab.reference(kind)


def killed_at_random(lab: Lab, kind: str, out: Path, generator: random.Random) -> bool:
    """Start or go on, and kill at a random time. False when the run had ended before; it is removed then."""
    child = lab.train(kind, out)
    child.wait(generator.random() * lab.seconds(kind))
    child.kill()
    code = child.wait()
    assert code in (137, 0), child.output
    if code == 0:
        shutil.rmtree(out)
    return code == 137


@pytest.mark.row("kill -9 at a random time")
@pytest.mark.parametrize("seed", sample(range(40), 0, 1))
def test_kill_at_a_random_time(lab: Lab, out: Path, seed: int) -> None:
    kind, generator = KINDS[seed % 2], random.Random(seed)
    expected = lab.reference(kind)
    while not killed_at_random(lab, kind, out, generator):
        pass
    assert lab.finish(kind, out) == expected


@pytest.mark.row("kill -9 of weights held in bfloat16, rounded at random")
@pytest.mark.parametrize("step", sample((2, 4, 8), 1))
def test_rounding_at_random_goes_on_alike(lab: Lab, out: Path, tmp_path: Path, step: int) -> None:
    recipe = lab.recipe("full", model__dtype="bfloat16")
    expected = lab.finish(recipe, tmp_path / "reference")
    assert expected["weights"] != lab.reference("full")["weights"]
    child = lab.train(recipe, out, fault={"kind": "send", "number": 9, "at": "step", "nth": step + 1})
    assert child.wait() == 137, child.output
    assert lab.finish(recipe, out) == expected


@pytest.mark.row("5 kills -9 in one run, resumes among them")
@pytest.mark.parametrize("seed", sample(range(5), 0))
def test_five_kills_in_one_run(lab: Lab, out: Path, seed: int) -> None:
    kind = KINDS[seed % 2]
    expected, generator = lab.reference(kind), random.Random(100 + seed)
    num_kills = 0
    while num_kills < 5:
        num_kills = num_kills + 1 if killed_at_random(lab, kind, out, generator) else 0
    assert lab.finish(kind, out) == expected


def count_changes(lab: Lab, kind: str, out: Path, fault: dict[str, Any], count_file: Path) -> int:
    child = lab.train(kind, out, fault={**fault, "count_to": str(count_file)})
    assert child.wait() == 0, child.output
    return int(count_file.read_text())


def survive_each(lab: Lab, kind: str, tmp_path: Path, fault: dict[str, Any], every: int, first: int = 1) -> int:
    """Kill before each `every`-th change on disk in the part that `fault` names; returns the number of kills."""
    changes = count_changes(lab, kind, tmp_path / "count", fault, tmp_path / "changes.txt")
    assert changes >= 10
    kills = range(first, changes + 1, every)
    for at in kills:
        out = tmp_path / f"at-{at}"
        child = lab.train(kind, out, fault={**fault, "at": at})
        assert child.wait() == 137, f"change {at}: {child.output}"
        assert lab.finish(kind, out) == lab.reference(kind), f"change {at}"
    return len(kills)


@pytest.mark.row("kill -9 before each change on disk of a save")
@pytest.mark.parametrize("kind", KINDS)
def test_kill_in_a_save(lab: Lab, tmp_path: Path, count: Callable[[int], None], kind: str) -> None:
    count(survive_each(lab, kind, tmp_path, {"kind": "kill_in_save", "save": 3}, every=19, first=7))


@pytest.mark.slow
@pytest.mark.row("kill -9 before each change on disk of a save")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("save", [1, 3])
def test_kill_at_each_change_of_a_save(
    lab: Lab, tmp_path: Path, count: Callable[[int], None], kind: str, save: int
) -> None:
    count(survive_each(lab, kind, tmp_path, {"kind": "kill_in_save", "save": save}, every=1))


@pytest.mark.row("kill -9 with half a file written")
@pytest.mark.parametrize("file", sample(range(1, 5), 1))
@pytest.mark.parametrize("kind", sample(KINDS, 0))
def test_kill_with_half_a_file_written(lab: Lab, out: Path, kind: str, file: int) -> None:
    child = lab.train(kind, out, fault={"kind": "kill_in_file", "save": 2, "file": file, "share": 0.5})
    assert child.wait() == 137, child.output
    assert lab.finish(kind, out) == lab.reference(kind)


@pytest.mark.row("kill -9 before each change on disk of the start")
def test_kill_in_the_start(lab: Lab, tmp_path: Path, count: Callable[[int], None]) -> None:
    lab.reference("full")
    count(survive_each(lab, "full", tmp_path, {"kind": "kill_at_change", "until": "train"}, every=40, first=11))


@pytest.mark.slow
@pytest.mark.row("kill -9 before each change on disk of the start")
def test_kill_at_each_change_of_the_start(lab: Lab, tmp_path: Path, count: Callable[[int], None]) -> None:
    lab.reference("full")
    count(survive_each(lab, "full", tmp_path, {"kind": "kill_at_change", "until": "train"}, every=1))


@pytest.mark.row("kill -9 before each change on disk of the end")
@pytest.mark.parametrize("kind", sample(KINDS, 0))
def test_kill_in_the_end(lab: Lab, tmp_path: Path, count: Callable[[int], None], kind: str) -> None:
    count(survive_each(lab, kind, tmp_path, {"kind": "kill_in_end"}, every=30, first=9))


@pytest.mark.slow
@pytest.mark.row("kill -9 before each change on disk of the end")
@pytest.mark.parametrize("kind", KINDS)
def test_kill_at_each_change_of_the_end(lab: Lab, tmp_path: Path, count: Callable[[int], None], kind: str) -> None:
    count(survive_each(lab, kind, tmp_path, {"kind": "kill_in_end"}, every=1))


@pytest.mark.row("kill -9 before each change on disk of a comparison")
@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_kill_in_a_comparison(lab: Lab, tmp_path: Path, count: Callable[[int], None], every: int) -> None:
    lab.reference("plain")

    def compared(name: str, **fault: Any) -> tuple[int | None, Path]:
        run = tmp_path / name
        if not run.exists():
            shutil.copytree(lab.folder / "reference-plain", run)
        arguments = ["compare", str(run)]
        child = lab.zygote.start("tunesmith", {"kind": "kill_at_change", **fault}, arguments=arguments)
        return child.wait(), run

    changes = tmp_path / "changes.txt"
    code, run = compared("whole", count_to=str(changes))
    assert code == 0
    expected = comparison(run)
    kills = range(1, int(changes.read_text()) + 1, every)
    assert len(kills) >= 2
    count(len(kills))
    for at in kills:
        code, run = compared(f"at-{at}", at=at)
        assert code == 137, at
        assert lab.outcome(run) == lab.reference("plain"), at
        assert compared(f"at-{at}")[0] == 0, at
        assert comparison(run) == expected, at


def comparison(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "compare.json").read_text())
    return {name: value for name, value in found.items() if name not in ("seconds", "tuned", "environment")}
