"""Loops of tiny models, ready to run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunesmith import Recipe
from tunesmith.pipeline import prepare_inputs
from tunesmith.plan import detect_machine, make_plan
from tunesmith.run.directory import RunDir
from tunesmith.run.observer import Silent
from tunesmith.run.recorder import Recorder
from tunesmith.run.signals import StopRequest
from tunesmith.training import Job, _loop, build_model
from tunesmith.training.loop import Loop


@pytest.fixture(scope="session")
def loops_of(shows_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Callable[..., Loop]]:
    """loops_of(model) gives make(run_dir=None, **values of the plan): four steps over 60 shows, a checkpoint every two.

    The plan is decided once a model; a run of its own unless one is given; an adapter where `method` names one.
    """

    def of(model: Path) -> Callable[..., Loop]:
        recipe = Recipe(
            model={"name": str(model)},
            data={"path": str(shows_csv), "text": "description", "max_rows": 60, "eval_fraction": 0},
            train={"tokens_per_step": 400, "max_length": 64, "learning_rate": 5e-3, "max_steps": 4},
            save={"every": 2},
        )
        inputs = prepare_inputs(recipe, lambda *doing: None, small=False)
        decided = make_plan(recipe, inputs.data, detect_machine(), source=inputs.source)

        def make(run_dir: RunDir | None = None, **plan: Any) -> Loop:
            changes = {"cuda_graphs": False, **plan, **({"lora": recipe.lora} if "method" in plan else {})}
            run_dir = run_dir or RunDir.create(tmp_path_factory.mktemp("run") / "run")
            values = decided.model_copy(update=changes)
            prints = {"data": inputs.data.fingerprint, "model": "m"}
            job = Job(recipe, values, inputs.source, inputs.tokenizer, inputs.data, run_dir, prints, None)
            return _loop(job, build_model(job), StopRequest("again"), Recorder(run_dir, values.num_steps, Silent()))

        return make

    return of
