"""benchmarks/gpu.py cannot fail as a whole: what crashes, hangs or does not fit is a row or a name with its reason."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest


def works(value):
    yield {"value": value}
    yield {"value": value + 1}


def crashes():
    yield {"value": 1}
    os.kill(os.getpid(), signal.SIGKILL)


def raises():
    sys.stdout.write("a word before\n")
    raise RuntimeError("the reason\nand more")
    yield {}


def hangs(pid_file):
    child = subprocess.Popen(["sleep", "60"])
    pid_file.write_text(str(child.pid))
    yield {"value": 1}
    signal.pause()


def overlaps(folder, name, others):
    (folder / name).touch()
    yield {"beside": sorted(other for other in others if (folder / other).exists())}
    (folder / name).unlink()


@pytest.fixture
def runner(benchmarks, tmp_path):
    """runner(budget): its rows are in `.seen` as (task, row)."""
    from harness.processes import Runner

    def make(budget=60.0, **values):
        seen = []
        made = Runner(tmp_path, lambda task, row: seen.append((task.name, row)), budget, **values)
        made.seen = seen
        return made

    return make


def task(name, call, *arguments, **values):
    from harness.processes import Task

    return Task(name, call, arguments, **{"seconds": 1.0, **values})


def test_what_fails_is_a_row_and_the_others_go_on(runner):
    found = runner()
    found.one_by_one([task("a/b", works, 1), task("crash", crashes), task("error", raises), task("last", works, 5)])
    assert found.seen[:3] == [("a/b", {"value": 1}), ("a/b", {"value": 2}), ("crash", {"value": 1})]
    assert found.seen[3][1]["failed"].startswith("died of SIGKILL")
    name, row = found.seen[4]
    assert (name, row["failed"]) == ("error", "RuntimeError: the reason")
    assert row["log"].startswith("a word before\nTraceback")
    assert [row["value"] for name, row in found.seen if name == "last"] == [5, 6]


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_hangs_is_ended_with_what_it_started(runner, tmp_path):
    found = runner(slack=0.0)
    found.one_by_one([task("hang", hangs, tmp_path / "pid", seconds=0.5), task("last", works, 1)])
    assert found.seen[0] == ("hang", {"value": 1})
    assert found.seen[1][1]["failed"].startswith("ended after")
    assert len(found.seen) == 4
    assert not is_running(int((tmp_path / "pid").read_text()))


def test_what_does_not_fit_in_the_budget_is_left_out_by_name(runner):
    found = runner(budget=30.0)
    found.one_by_one([task("long", works, 1, seconds=20.0), task("short", works, 1)], reserve=15.0)
    assert found.left_out == ["long"]
    assert {name for name, _ in found.seen} == {"short"}
    found.side_by_side([task("longer", works, 1, seconds=99.0)], gigabytes=1.0, workers=2)
    assert found.left_out == ["long", "longer"]


def test_tasks_run_side_by_side_where_their_memory_has_room(runner, tmp_path):
    found = runner()
    names = ["x", "y", "z"]
    tasks = [task(name, overlaps, tmp_path, name, names, gigabytes=6.0) for name in names]
    found.side_by_side(tasks, gigabytes=10.0, workers=8)
    assert all(row["beside"] == [name] for name, row in found.seen)
    assert sorted(name for name, _ in found.seen) == names


def test_spans_that_overlap_count_once(benchmarks):
    from harness.own_steps import union

    assert union([(5, 6), (0, 2), (1, 3), (2, 2.5)]) == 4.0
    assert union([]) == 0.0


def test_ratios_take_the_best_of_each_setup(benchmarks):
    from harness.gpu_tables import ratios, share_of_limit

    def row(variant, rate, **more):
        return {"task": "m/x", "variant": variant, "samples_per_second": rate, **more}

    rows = [row("hf", 10.0), row("hf", 30.0), row("liger", 20.0), row("tunesmith full", 60.0)]
    rows += [row("tunesmith full", 120.0), row("tunesmith lora", 180.0), row("trl packing", None)]
    assert ratios(rows, {"m": 1.0, "absent": 1.0}) == {
        "m": {"vs_hf": 4.0, "vs_liger": 6.0, "vs_best_peer": 4.0, "lora_vs_full": 1.5}
    }
    full = row("tunesmith full", 1.0, tokens_per_second=3.0, limit_flops=12.0)
    assert share_of_limit(full, 2.0) == 0.5
    assert share_of_limit(full | {"variant": "tunesmith lora"}, 2.0) == pytest.approx(1 / 3)


def run_toys(benchmarks, tmp_path, rows, *options):
    out = tmp_path / "gpu.json"
    command = [sys.executable, benchmarks / "gpu.py", "--toy", "--budget", 3000, "--rows", rows, "--out", out, *options]
    finished = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return json.loads(out.read_text()), finished.stdout


def test_it_runs_end_to_end_with_toys(benchmarks, tmp_path, shows_csv):
    names = ["toy-neo/*", "toy-llama/*", "plan/*", "commands"]
    results, printed = run_toys(benchmarks, tmp_path, shows_csv, "--only", *names)
    rows = results["rows"]
    assert [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()] == rows
    settings = {(row["task"], row["setting"]) for row in rows if row.get("samples_per_second")}
    assert {("toy-neo/full", "256 tokens"), ("toy-llama/lora", "64 tokens"), ("toy-neo/hf", "batch 4")} <= settings
    assert ("toy-neo/reference", "batch 1, padded to 2048") in settings
    failed = {row["task"]: row["failed"] for row in rows if row.get("failed")}
    assert set(failed) == {"toy-neo/trl", "toy-llama/liger"}
    train = next(row for row in rows if row.get("variant") == "train")
    assert 0 < train["first_step_seconds"] < train["seconds"]
    assert {row["variant"] for row in rows if row["task"] == "commands"} == {"train", "generate"}
    assert results["plan"]["worst_error"] < 1e-3
    assert results["ratios"]["toy-neo"]["vs_reference"] > 0
    assert results["left_out"] == []
    assert "failed: toy-neo/trl" in printed


@pytest.mark.slow
def test_a_toy_that_is_killed_and_resumed_ends_as_one_that_is_not(benchmarks, tmp_path, shows_csv):
    results, _ = run_toys(benchmarks, tmp_path, shows_csv, "--only", "resume")
    assert results["rows"][-1]["equal"] is True
