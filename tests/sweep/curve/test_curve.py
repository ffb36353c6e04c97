"""A curve on a tiny model: what it leaves, going on after a kill, a bigger model, the command."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tunesmith.cli import app
from tunesmith.errors import SweepError
from tunesmith.pipeline import Prepared, prepare_inputs
from tunesmith.recipe import Recipe
from tunesmith.run.directory import RunDir
from tunesmith.sweep.curve.asked import Asked
from tunesmith.sweep.curve.stage import draw_curve
from tunesmith.sweep.curve.values import Curve

SHARES = (0.4, 0.6, 0.8)
prepare = partial(prepare_inputs, doing=lambda *_: None, small=False)


@pytest.fixture(scope="module")
def recipe(tiny_llama: Path, shows_csv: Path) -> Recipe:
    return Recipe(
        model={"name": str(tiny_llama)},
        data={"path": str(shows_csv), "text": "description", "max_rows": 75, "eval_fraction": 0.25},
        train={"learning_rate": 3e-3, "rehearse": False},
        save={"every": 4},
        export={"format": "safetensors"},
    )


@pytest.fixture(scope="module")
def prepared(recipe: Recipe) -> Prepared:
    return prepare(recipe)


def draw(recipe: Recipe, folder: Path, prepared: Prepared, **asked: Any) -> tuple[Curve, list[str]]:
    said: list[str] = []
    curve = draw_curve(recipe, folder, prepared, Asked(SHARES, **asked), prepare=prepare, say=said.append)
    return curve, said


@pytest.fixture(scope="module")
def drawn(recipe: Recipe, prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> tuple[Curve, Path]:
    folder = tmp_path_factory.mktemp("curve")
    curve, said = draw(recipe, folder, prepared)
    assert sum("training on" in line for line in said) == 4
    return curve, folder


def test_a_curve_tells_its_points_and_what_follows(drawn: tuple[Curve, Path]) -> None:
    curve, _ = drawn
    assert [(point.share, point.again) for point in curve.points] == [
        (0.4, False),
        (0.4, True),
        (0.6, False),
        (0.8, False),
    ]
    assert [point.num_rows for point in curve.points] == [round(share * curve.num_rows) for share in (0.4, *SHARES)]
    assert len({point.base_loss for point in curve.points}) == 1, "one base, scored once"
    first, second, third = (point.eval_loss for point in curve.points if not point.again)
    assert curve.base_loss is not None
    assert curve.base_loss > first > second > third
    assert first != curve.points[1].eval_loss
    assert curve.held_out_error is not None
    assert [one.num_rows / curve.num_rows for one in curve.forecasts] == pytest.approx([0.5, 1, 2, 4], rel=0.02)


def test_a_curve_leaves_what_is_said_and_no_models(drawn: tuple[Curve, Path]) -> None:
    curve, folder = drawn
    assert {"asked.json", "curve.html", "curve.json", "shares"} == {path.name for path in folder.iterdir()}
    assert Curve.parse(json.loads((folder / "curve.json").read_text()), "curve.json") == curve
    page = (folder / "curve.html").read_text()
    assert "<svg" in page
    assert curve.verdict[0] in page
    for run in (folder / "shares").iterdir():
        assert RunDir(run).has("result.json")
        assert not (run / "model").exists()
        assert not (run / "checkpoints").exists()
        assert not (run / "export").exists()


def test_what_is_trained_is_kept(recipe: Recipe, prepared: Prepared, drawn: tuple[Curve, Path]) -> None:
    curve, folder = drawn
    again, said = draw(recipe, folder, prepared)
    assert again == curve
    assert said == [f"{folder}: going on after 4 shares"]


def test_a_bigger_model_is_trained_on_the_same_rows_and_told_in_the_same_tokens(
    recipe: Recipe, prepared: Prepared, drawn: tuple[Curve, Path], tiny_gpt2: Path, tmp_path: Path
) -> None:
    """Its tokens may be others, so that a loss a token of its own would not compare."""
    shutil.copytree(drawn[1], tmp_path / "more")
    curve, said = draw(recipe, tmp_path / "more", prepared, bigger=str(tiny_gpt2))
    assert sum("training on" in line for line in said) == 1
    beside, bigger = curve.points[0], curve.points[-1]
    assert (bigger.model, bigger.num_rows) == (str(tiny_gpt2), beside.num_rows)
    assert beside.eval_bits_per_byte is not None
    assert bigger.eval_bits_per_byte is not None
    assert bigger.eval_loss == pytest.approx(bigger.eval_bits_per_byte / beside.eval_bits_per_byte * beside.eval_loss)
    assert curve.bigger is not None
    assert len(curve.bigger.forecasts) == 4
    assert curve.verdict[-1].startswith(str(tiny_gpt2))


def test_a_folder_of_another_curve_is_refused(recipe: Recipe, prepared: Prepared, tmp_path: Path) -> None:
    begun = {"recipe": recipe.with_values(**{"train.seed": 8}).model_dump(mode="json"), "data": "x"}
    (tmp_path / "asked.json").write_text(json.dumps(begun))
    with pytest.raises(SweepError, match=r"differs in data, recipe\.train\.seed\. Its shares cannot be compared"):
        draw(recipe, tmp_path, prepared)


KILLED = """
import os, signal, sys
from pathlib import Path
from tunesmith.run.recorder import Recorder
from tunesmith.cli import main

saved = Recorder.saved
def kill(self, step):
    saved(self, step)
    if self.run_dir.path.name == "asked-0.6":
        os.kill(os.getpid(), signal.SIGKILL)
Recorder.saved = kill
main()
"""


def test_a_killed_curve_goes_on_where_it_was(recipe: Recipe, drawn: tuple[Curve, Path], tmp_path: Path) -> None:
    """Killed after a checkpoint of its third share: what was trained is not trained again, and the end is the same."""
    whole, before = drawn
    path, folder = tmp_path / "r.yaml", tmp_path / "killed"
    path.write_text(recipe.to_yaml())
    shutil.copytree(before, folder)  # as it stood after two shares
    (folder / "curve.json").write_text(whole.model_copy(update={"points": whole.points[:2]}).model_dump_json())
    for share in ("0.6", "0.8"):
        shutil.rmtree(folder / "shares" / f"asked-{share}")
    command = ["sweep", str(path), "--data-curve", "--shares", "0.4,0.6,0.8", "--out", str(folder)]
    done = subprocess.run([sys.executable, "-c", KILLED, *command], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(json.loads((folder / "curve.json").read_text())["points"]) == 2
    assert list((folder / "shares" / "asked-0.6" / "checkpoints").glob("step-*"))

    found = CliRunner().invoke(app, [*command, "--json"])
    assert found.exit_code == 0, found.output
    assert "going on after 2 shares" in found.stderr
    assert (folder / "shares" / "asked-0.6" / "log.txt").read_text().count("step 4: checkpoint saved") == 1
    ended = Curve.parse(json.loads(found.stdout), "stdout")
    assert [point.eval_loss for point in ended.points] == [point.eval_loss for point in whole.points]
    assert [one.eval_loss for one in ended.forecasts] == [one.eval_loss for one in whole.forecasts]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shares", "0.1,0.2,0.3"], "--shares and --bigger are of --data-curve. Add it."),
        (["--data-curve", "--trials", "3"], "--trials searches, and --data-curve does not."),
        (["--data-curve", "--workers", "2"], "--workers searches"),
        (["--data-curve", "--shares", "0.3,0.2,0.1"], "at least three shares, increasing"),
        (["--data-curve"], "0.05 of "),
    ],
)
def test_the_command_says_what_is_wrong(recipe: Recipe, tmp_path: Path, arguments: list[str], message: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(recipe.to_yaml())
    done = CliRunner().invoke(app, ["sweep", str(path), *arguments, "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, SweepError)
    assert message in str(done.exception)
    assert not (tmp_path / "out").exists()
