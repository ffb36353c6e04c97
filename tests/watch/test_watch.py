"""A watcher reads a run as it grows, whatever state its files are in, and fits any terminal."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from tunesmith.cli import app
from tunesmith.run.artefacts import MetricsLine, Status
from tunesmith.run.directory import LOG, METRICS, RunDir
from tunesmith.run.standing import SILENT_SECONDS
from tunesmith.watch.chart import Line, draw
from tunesmith.watch.device import Load
from tunesmith.watch.page import run_page
from tunesmith.watch.screen import render, render_one
from tunesmith.watch.view import MAX_POINTS, TAIL_BYTES, View


def step(number: int, loss: float = 3.0) -> str:
    line = MetricsLine(step=number, epoch=0.1, time=float(number), loss=loss, tokens_per_second=250.0, peak_bytes=10**9)
    return json.dumps(line.to_json()) + "\n"


def evaluation(number: int, loss: float) -> str:
    return json.dumps(MetricsLine(step=number, epoch=0.1, time=float(number), eval_loss=loss).to_json()) + "\n"


def shown(view: View, width: int, height: int, *devices: Load) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, height=height).print(render_one(view, devices, width, height, 1.5))
    return out.getvalue().splitlines()


def test_only_what_is_new_is_read(copied_run: RunDir) -> None:
    view = View.of(copied_run)
    before, place = len(view.train.points), view._place
    last = view.train.points[-1][0]
    with copied_run.file(METRICS).open("a") as file:
        file.write(step(last + 1) + step(last + 2)[:-20])
    view.refresh()
    assert len(view.train.points) == before + 1, "the second line is still being written"
    with copied_run.file(METRICS).open("a") as file:
        file.write(step(last + 2)[-20:])
    view.refresh()
    assert [number for number, _ in view.train.points[-2:]] == [last + 1, last + 2]
    assert view._place > place
    assert view.line is not None
    assert view.line.step == last + 2


def test_lines_that_cannot_be_used_are_passed_over(copied_run: RunDir) -> None:
    copied_run.file(METRICS).write_bytes(
        b"\xff\xfe not text\n" + step(1).encode() + b'{"step": "x"}\n[1]\n' + step(2).encode() + b'{"step": 3, "lo'
    )
    view = View.of(copied_run)
    assert [number for number, _ in view.train.points] == [1, 2]


def test_a_run_that_is_begun_again_starts_a_new_curve(copied_run: RunDir) -> None:
    view = View.of(copied_run)
    copied_run.file(METRICS).write_text(step(1))
    view.refresh()
    assert view.train.points == [(1, 3.0)]


def test_of_a_million_steps_every_evaluation_and_some_of_the_rest_are_read(tiny_run: RunDir, tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path / "long")
    run_dir.write_recipe(tiny_run.recipe())
    lines = [step(number) + (evaluation(number, 2.0) if number % 5000 == 0 else "") for number in range(1, 40_001)]
    run_dir.file(METRICS).write_text(evaluation(0, 5.0) + "".join(lines))
    view = View.of(run_dir)
    assert [number for number, _ in view.held_out.points] == [0, *range(5000, 40_001, 5000)]
    assert 1000 < len(view.train.points) <= MAX_POINTS
    assert view.train._seen <= MAX_POINTS + 10, "lines that were parsed"
    with run_dir.file(METRICS).open("a") as file:
        file.write(step(40_001))
    view.refresh()
    assert view.base_loss == 5.0
    assert view.line is not None
    assert view.line.step == 40_001


def test_of_a_million_log_lines_the_last_are_read(copied_run: RunDir) -> None:
    copied_run.file(LOG).write_text("".join(f"line {number}\n" for number in range(1_000_000)))
    log = View.of(copied_run).log
    assert log[-1] == "line 999999"
    assert sum(map(len, log)) < TAIL_BYTES


def state_of(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Of every file below, what a write to it would change."""
    return {str(path): (s.st_mtime_ns, s.st_size, s.st_ino) for path in folder.rglob("*") for s in (path.stat(),)}


def test_a_watcher_writes_nothing_and_needs_no_right_to(copied_run: RunDir) -> None:
    """As on a read-only mount; root may write anywhere, so what is there is compared as well."""
    folder = copied_run.path
    before = state_of(folder)
    modes = [(path, path.stat().st_mode) for path in (folder, *folder.rglob("*"))]
    for path, mode in modes:
        path.chmod(mode & ~0o222)
    try:
        for arguments in (["watch", "--once"], ["watch", "--json"], ["status"], ["attach"]):
            done = CliRunner().invoke(app, [arguments[0], str(folder), *arguments[1:]])
            assert done.exit_code == 0, (arguments, done.output)
        assert run_page(View.of(copied_run), None, back=False).whole()
    finally:
        for path, mode in modes:
            path.chmod(mode)
    assert state_of(folder) == before


def test_two_watchers_see_the_same(growing: Any) -> None:
    first = View.of(growing.run_dir)
    growing.steps(3)
    second = View.of(growing.run_dir)
    growing.evaluate(4.5, "a text")
    growing.steps(2)
    for view in (first, second):
        view.refresh()
    assert first.train.points == second.train.points
    assert len(first.train.points) == 5
    assert first.held_out.points == second.held_out.points == [(3, 4.5)]
    assert first.samples == second.samples
    assert first.to_json()["step"] == second.to_json()["step"] == 5


@pytest.mark.parametrize("shift", [-1e9, -3600.0, 3600.0, 1e9])
def test_a_clock_that_jumps_moves_no_time_far(growing: Any, shift: float) -> None:
    growing.steps(5)
    status = growing.run_dir.read(Status)
    growing.run_dir.write(status.model_copy(update={"updated": status.updated + shift}))
    view = View.of(growing.run_dir)
    assert view.standing.state == "running", "the lock says so, and no clock"
    assert 5.0 <= view.seconds <= 5.0 + SILENT_SECONDS
    assert shown(view, 80, 24)


def test_a_run_elsewhere_whose_clock_is_wrong_lives_while_it_speaks(growing: Any) -> None:
    lock = json.loads(growing.run_dir.file("lock").read_text())
    growing.run_dir.file("lock").write_text(json.dumps({**lock, "host": "elsewhere"}))
    growing.steps(1)
    status = growing.run_dir.read(Status).model_copy(update={"host": "elsewhere", "updated": 1e9})
    growing.run_dir.write(status)
    view = View.of(growing.run_dir)
    assert view.standing.state == "crashed", "at one look a run that was silent since 2001"
    view.refresh()
    assert view.standing.state == "crashed"
    growing.run_dir.write(status.model_copy(update={"updated": 1e9 + 1}))
    view.refresh()
    assert (view.standing.state, view.standing.resume) == ("running", None)


@pytest.mark.parametrize(("width", "height"), [(60, 20), (80, 24), (100, 30), (200, 60), (40, 8), (20, 3)])
def test_the_screen_fits(tiny_run: RunDir, width: int, height: int) -> None:
    gpus = [Load(f"NVIDIA H200 number {number}", 0.97, 10**10, 2 * 10**10, 61, 400.0) for number in range(4)]
    lines = shown(View.of(tiny_run), width, height, *gpus)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert lines[0].startswith(View.of(tiny_run).name[:10])


def test_the_screen_tells_the_run(tiny_run: RunDir) -> None:
    text = "\n".join(
        shown(View.of(tiny_run), 100, 30, Load("NVIDIA L4", 0.97, 17_200_000_000, 24_000_000_000, 61, 70.0))
    )
    for part in ("finished", "held-out", " -> ", "tokens/s", "epoch", "peak", "cost", "at 1.5 an hour", "training"):
        assert part in text, part
    assert "NVIDIA L4  97%  17.2 GB of 24.0 GB  61 °C  70 W" in text
    assert any("\u2800" < char <= "\u28ff" for char in text), "a curve"


def test_hostile_names_and_logs_move_no_cursor(copied_run: RunDir) -> None:
    copied_run.log("evil \x1b[2J\x1b[31m\u202e text")
    text = "\n".join(shown(View.of(copied_run), 100, 40))
    assert "evil" in text
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_several_runs_take_a_line_each(tiny_run: RunDir, copied_run: RunDir) -> None:
    out = io.StringIO()
    Console(file=out, width=80).print(render([View.of(tiny_run), View.of(copied_run)], 80, 24))
    assert len(out.getvalue().splitlines()) == 2


def test_a_curve_falls_from_left_to_right_and_keeps_to_its_scale() -> None:
    rows = draw([Line([(number, 10.0 - number) for number in range(11)], "")], 40, 6)
    text = ["".join(cell.text for cell in row) for row in rows]
    assert text[0].lstrip().startswith("10.000")
    assert text[-1].lstrip().startswith("0.000")
    firsts = [next(place for place, cell in enumerate(row[1:]) if cell.text != "\u2800") for row in rows]
    assert firsts == sorted(firsts)
    assert len(set(firsts)) == len(firsts)


@pytest.mark.parametrize("points", [[], [(1, 2.0)], [(1, 2.0), (2, 2.0)]])
def test_little_or_nothing_to_draw(points: list[tuple[int, float]]) -> None:
    assert len(draw([Line(points, "")] if points else [], 40, 6)) == (6 if points else 0)
