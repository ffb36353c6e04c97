"""Other programs are told of a run: each really, offline; one that fails is named, and the run goes on."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import tunesmith
from tunesmith import Recipe, TrainingError
from tunesmith.run.artefacts import SamplesLine, WrittenText
from tunesmith.run.directory import LOG, RunDir
from tunesmith.training.trackers import Trackers, check_trackers

BASE = 5.5
RECIPE: dict[str, Any] = {"train": {"epochs": 2}, "model": {"name": "sk-abcdefghijklmnopqrstuvwxyz"}}
TEXTS = SamplesLine(
    step=1000, texts=(WrittenText(prompt="One fine morning", text=" a dog sang", ended=True, is_answer=False),)
)


def told(run_dir: RunDir, name: str, step: int = 0) -> list[str]:
    """Tell a tracker of the lines of a run after `step`; returns what went wrong."""
    notes: list[str] = []
    trackers = Trackers((name,), run_dir, notes.append)
    trackers.start(RECIPE, step)
    run_dir.append_samples(TEXTS)
    for line in run_dir.metrics_lines()[0]:
        if line.step >= step:
            trackers.log(line, BASE)
    trackers.wrote(TEXTS)
    trackers.end()
    return notes


def losses(run_dir: RunDir) -> list[float]:
    return [line.loss for line in run_dir.metrics_lines()[0] if line.loss is not None]


def scalars(run_dir: RunDir, name: str) -> list[float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = next(path.parent for path in sorted(run_dir.path.rglob("events*")) if path.parent.name == "tunesmith")
    return [event.value for event in EventAccumulator(str(folder)).Reload().Scalars(name)]


def test_an_unknown_tracker_is_named_with_those_there_are() -> None:
    with pytest.raises(TrainingError, match=r"train\.report_to: wanb: unknown tracker.*wandb"):
        check_trackers(("wanb",))


@pytest.mark.parametrize(("name", "package"), [("wandb", r"'tunesmith\[trackers\]'"), ("comet_ml", "comet_ml")])
def test_a_tracker_that_is_not_installed_says_how(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TrainingError, match=rf"{name} is not installed\. Run: pip install {package}"):
        check_trackers((name,))


def test_a_run_with_a_tracker_that_is_missing_writes_nothing(tiny_llama: Path, shows_csv: Path, tmp_path: Path) -> None:
    recipe = Recipe(
        model={"name": str(tiny_llama)},
        data={"path": str(shows_csv), "text": "description"},
        train={"report_to": ["no-such-tracker"]},
    )
    with pytest.raises(TrainingError, match="no-such-tracker"):
        tunesmith.train(recipe, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_is_logged_reaches_a_tracker(tiny_llama: Path, shows_csv: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    recipe = Recipe(
        model={"name": str(tiny_llama)},
        data={"path": str(shows_csv), "text": "description", "max_rows": 60},
        train={"report_to": ["tensorboard"], "max_steps": 3},
        compare={"max_new_tokens": 4},
    )
    run = tunesmith.train(recipe, out=tmp_path / "run", console=Console(quiet=True))
    assert scalars(run.dir, "loss") == pytest.approx(losses(run.dir))
    evaluated = [line["eval_loss"] for line in run.dir.metrics() if "eval_loss" in line]
    assert scalars(run.dir, "eval_loss") == pytest.approx(evaluated), "the base's too"
    assert scalars(run.dir, "eval_loss_base") == pytest.approx([evaluated[0]] * len(evaluated)), "a level"


def test_tensorboard_goes_on_after_the_step_that_was_saved(copied_run: RunDir) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    assert told(copied_run, "tensorboard") == []
    copied_run.keep_lines_until(4)
    assert told(copied_run, "tensorboard", step=4) == []
    assert len(scalars(copied_run, "loss")) <= len(losses(copied_run)) + 1, "steps that are made again stand once"


def test_a_tracker_that_fails_is_named_once_and_ends_nothing(copied_run: RunDir) -> None:
    (note,) = told(copied_run, "comet_ml")
    assert note.startswith("train.report_to: comet_ml: ")
    assert note.endswith("The run goes on without it.")


def test_a_folder_that_cannot_be_made_ends_nothing(tiny_llama: Path, shows_csv: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    recipe = Recipe(
        model={"name": str(tiny_llama)},
        data={"path": str(shows_csv), "text": "description", "max_rows": 60},
        train={"report_to": ["tensorboard"], "max_steps": 2},
        compare={"max_new_tokens": 4},
    )
    with pytest.raises(tunesmith.Stopped):
        tunesmith.train(recipe, out=tmp_path / "run", console=Console(quiet=True), stop=lambda: True)
    (folder,) = tmp_path.glob("run/trackers")
    folder.rename(tmp_path / "gone")
    folder.touch()
    run = tunesmith.train(recipe, out=tmp_path / "run", console=Console(quiet=True))
    assert run.result["stopped"] is None
    assert "tensorboard: " in run.dir.file(LOG).read_text()


@pytest.mark.slow
def test_trackio_keeps_curves_texts_and_recipe(
    copied_run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    pytest.importorskip("trackio", reason="trackio is not installed")
    assert told(copied_run, "trackio") == []
    (file,) = (tmp_path / "trackio").glob("*.db")
    with contextlib.closing(sqlite3.connect(file)) as database:
        tables = [name for (name,) in database.execute("select name from sqlite_master where type = 'table'")]
        held = "\n".join(str(row) for table in tables for row in database.execute(f"select * from {table}"))
    assert "eval_loss_base" in held
    assert "a dog sang" in held
    assert "train.epochs" in held
    assert RECIPE["model"]["name"] not in held


@pytest.mark.slow
def test_wandb_keeps_curves_texts_and_recipe_offline(copied_run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert told(copied_run, "wandb") == []
    wandb.teardown()  # its own process writes the rest of the file
    (kept,) = copied_run.path.rglob("*.wandb")
    held = kept.read_bytes()
    for part in (b"eval_loss_base", b"grad_norm", b"train.epochs", b"samples"):
        assert part in held, part
    assert RECIPE["model"]["name"].encode() not in held
    (table,) = copied_run.path.rglob("samples*.table.json")
    assert json.loads(table.read_text())["data"] == [[1000, "One fine morning", " a dog sang"]]


@pytest.mark.slow
def test_mlflow_keeps_curves_texts_and_recipe_in_one_run(
    copied_run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    assert told(copied_run, "mlflow") == []
    assert told(copied_run, "mlflow", step=4) == [], "a run that goes on is the same run there"
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    history = [point.value for point in client.get_metric_history(run.info.run_id, "loss")]
    assert history[: len(losses(copied_run))] == pytest.approx(losses(copied_run))
    assert run.data.metrics["eval_loss_base"] == BASE
    assert run.data.params["train.epochs"] == "2"
    assert run.data.params["model.name"] == "[redacted]"
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["samples.jsonl"]
