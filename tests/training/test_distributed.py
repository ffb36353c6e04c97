"""One process is a team of its own; trackers are checked before a run begins."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import tunesmith
from tunesmith import Recipe, TrainingError
from tunesmith.run.artefacts import Plan
from tunesmith.run.directory import RunDir
from tunesmith.training.distributed import Team, check_trackers


def test_one_process_decides_alone(tmp_path: Path, new_plan: Callable[..., Plan]) -> None:
    team = Team(new_plan(), RunDir.create(tmp_path / "run"))
    model = torch.nn.Linear(2, 2)
    assert (team.rank, team.size, team.is_first) == (0, 1, True)
    assert team.wrap(model) is model
    assert team.agree(True, False) == [True, False]
    assert team.means(torch.tensor([3.0, 1.0])).tolist() == [3.0, 1.0]


def test_an_unknown_tracker_is_named_with_those_there_are() -> None:
    with pytest.raises(TrainingError, match=r"train\.report_to: wanb: unknown tracker.*wandb"):
        check_trackers(("wanb",))


def test_a_tracker_that_is_not_installed_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TrainingError, match=r"wandb is not installed\. Run: pip install wandb"):
        check_trackers(("wandb",))


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
    )
    run = tunesmith.train(recipe, out=tmp_path / "run")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(next((run.path / "trackers").rglob("events*")).parent)).Reload()
    losses = [event.value for event in events.Scalars("loss")]
    assert losses == pytest.approx([line["loss"] for line in run.dir.metrics() if "loss" in line])
