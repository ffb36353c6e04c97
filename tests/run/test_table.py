"""Runs side by side: metrics, differing recipe values, and what keeps numbers from being compared."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tunesmith.errors import RunError
from tunesmith.recipe import Recipe
from tunesmith.run.artefacts import Comparison, DataAccount, Interval, Plan, Result
from tunesmith.run.directory import RESULT, RunDir
from tunesmith.run.table import compare_runs, list_runs
from tunesmith.show.runs import print_runs

MakeRun = Callable[..., RunDir]


@pytest.fixture
def make_run(tiny_run: RunDir) -> MakeRun:
    """make_run(path, eval_loss): the tiny run with other scores, but not compared; None: without a result."""
    plan, data, result = tiny_run.read(Plan), tiny_run.read(DataAccount), tiny_run.read(Result)

    def make(
        path: Path,
        eval_loss: float | None,
        *,
        held_out: str = "aaaa",
        tokenizer: str = "tttt",
        stopped: str | None = None,
        **recipe_values: Any,
    ) -> RunDir:
        path.mkdir(parents=True)
        run_dir = RunDir(path)
        recipe = Recipe(model={"name": "smollm2-135m"}, data={"path": "shows.csv", "text": "description"})
        run_dir.write_recipe(recipe.with_values(**recipe_values))
        run_dir.write(plan)
        held = data.splits["eval"].model_copy(update={"fingerprint": held_out})
        run_dir.write(data.model_copy(update={"tokenizer": tokenizer, "splits": {**data.splits, "eval": held}}))
        if eval_loss is not None:
            same = {"eval_loss_base": 4.5, "eval_perplexity": 20.0, "eval_token_accuracy": 0.3, "stopped": stopped}
            scores = {"eval_loss": eval_loss, "eval_bits_per_byte": eval_loss / 4}
            run_dir.write(result.model_copy(update=same | scores))
        return run_dir

    return make


def compared(run_dir: RunDir, **tuned: float) -> Comparison:
    """The comparison of a run with other values of the tuned model."""
    known = run_dir.read(Comparison)
    changed = {
        name: known.scores[name].model_copy(update={"tuned": Interval(value=value, low=value, high=value)})
        for name, value in tuned.items()
    }
    return known.model_copy(update={"scores": {**known.scores, **changed}})


def printed(table: Any) -> str:
    out = io.StringIO()
    print_runs(table, Console(file=out, width=200))
    return out.getvalue()


def test_the_recipe_values_that_differ_stand_beside_the_metrics(make_run: MakeRun, tmp_path: Path) -> None:
    make_run(tmp_path / "low", 3.2)
    make_run(tmp_path / "high", 3.0, **{"train.learning_rate": 1e-3, "train.epochs": 3})
    table = compare_runs([tmp_path / "low", tmp_path / "high"])
    assert table.differences == {"train.epochs": [1.0, 3.0], "train.learning_rate": ["auto", 1e-3]}
    assert table.best()["eval_loss"] == "high"
    text = printed(table)
    assert "train.learning_rate" in text
    assert "3.000 *" in text
    assert "3.200 *" not in text
    assert "`tunesmith compare RUN` writes them" in text
    [first, *_] = json.loads(json.dumps(table.to_json()))["runs"]
    assert first["metrics"]["eval_loss"] == 3.2


def test_different_held_out_rows_are_not_ranked(make_run: MakeRun, tmp_path: Path) -> None:
    make_run(tmp_path / "one", 3.2)
    make_run(tmp_path / "two", 3.0, held_out="bbbb")
    table = compare_runs([tmp_path / "one", tmp_path / "two"])
    assert table.best() == {}
    assert "different held-out rows" in printed(table)


def test_different_tokenizers_are_ranked_by_bits_per_byte_only(make_run: MakeRun, tmp_path: Path) -> None:
    make_run(tmp_path / "one", 3.2)
    make_run(tmp_path / "two", 3.0, tokenizer="uuuu")
    table = compare_runs([tmp_path / "one", tmp_path / "two"])
    assert table.best() == {"eval_bits_per_byte": "two"}
    assert "bits per byte, not loss" in printed(table)


def test_equal_values_have_no_best(make_run: MakeRun, tmp_path: Path) -> None:
    make_run(tmp_path / "one", 3.0)
    make_run(tmp_path / "two", 3.0)
    assert compare_runs([tmp_path / "one", tmp_path / "two"]).best() == {}


def test_runs_of_the_same_name_are_told_apart_by_path(make_run: MakeRun, tmp_path: Path) -> None:
    make_run(tmp_path / "a" / "shows", 3.0)
    make_run(tmp_path / "b" / "shows", 3.1)
    table = compare_runs([tmp_path / "a" / "shows", tmp_path / "b" / "shows"])
    assert [row.name for row in table.rows] == [str(tmp_path / "a" / "shows"), str(tmp_path / "b" / "shows")]


def test_a_list_shows_every_run_and_its_state(make_run: MakeRun, tiny_run: RunDir, tmp_path: Path) -> None:
    done = make_run(tmp_path / "done", 3.0)
    done.write(compared(tiny_run, style_auc=0.71))
    make_run(tmp_path / "halted", 3.4, stopped="SIGTERM")
    make_run(tmp_path / "begun", None)
    broken = make_run(tmp_path / "broken", 3.0)
    broken.file(RESULT).write_text("{", encoding="utf-8")
    (tmp_path / "not-a-run").mkdir()
    table = list_runs(tmp_path)
    states = {row.name: row.state for row in table.rows}
    assert states == {
        "done": "finished",
        "halted": "stopped (SIGTERM)",
        "begun": "stopped (it did not begin)",
        "broken": "damaged (result.json)",
    }
    text = printed(table)
    assert "0.71" in text
    assert "not-a-run" not in text


def test_what_is_no_run_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(tmp_path / "one", 3.0)
    with pytest.raises(RunError, match="no run here"):
        compare_runs([run.path, tmp_path])
    with pytest.raises(RunError, match="at least two"):
        compare_runs([run.path])
    with pytest.raises(RunError, match="no such folder"):
        list_runs(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    assert "no runs here yet" in printed(list_runs(tmp_path / "empty"))


def test_names_in_a_recipe_are_printed_as_they_are(make_run: MakeRun, tmp_path: Path) -> None:
    make_run(tmp_path / "one", 3.0, **{"model.name": "[red]\x1b[2Jmodel"})
    text = printed(list_runs(tmp_path))
    assert "\x1b" not in text
    assert "[red]" in text


@pytest.mark.parametrize("width", [80, 60, 200])
def test_a_list_fits_the_terminal_without_a_broken_number(make_run: MakeRun, tmp_path: Path, width: int) -> None:
    make_run(
        tmp_path / ("a-run-with-a-name-that-is-" + "long-" * 6), 3.021, **{"model.name": "some/very-long-name" * 3}
    )
    make_run(tmp_path / "halted", None)
    stopped = make_run(tmp_path / "early", 3.0, stopped="SIGTERM")
    stopped.write(stopped.read(Result).model_copy(update={"eval_loss": None}))
    out = io.StringIO()
    print_runs(list_runs(tmp_path), Console(file=out, width=width))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert "4.500 -> 3.021" in out.getvalue()
    assert "4.500 -> not measured" in out.getvalue()
    assert ("A wider window and --json also show:" in out.getvalue()) == (width < 200)


def test_a_dry_run_is_listed_as_one(make_run: MakeRun, tmp_path: Path) -> None:
    small = make_run(tmp_path / "shows-small", 3.0)
    small.write(small.read(DataAccount).model_copy(update={"small": True}))
    said = small.read(DataAccount).dry_run
    assert re.fullmatch(r"dry run: \d+ rows, \d+ held out", said)
    make_run(tmp_path / "shows", 3.0)
    rows = {row.name: row for row in list_runs(tmp_path).rows}
    assert rows["shows-small"].dry_run == said
    assert rows["shows"].dry_run == ""
    assert f"finished; {said}" in printed(list_runs(tmp_path))
    together = printed(compare_runs([tmp_path / "shows-small", tmp_path / "shows"]))
    assert f"shows-small was a {said}." in together
