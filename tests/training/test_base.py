"""What runs of one process share: every one begins with the same weights, which are read once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tunesmith import Recipe
from tunesmith.evaluate import Scores
from tunesmith.models.load import load_model
from tunesmith.pipeline import prepare_inputs
from tunesmith.plan import detect_machine, make_plan
from tunesmith.run.directory import RunDir
from tunesmith.training import Job, build_model
from tunesmith.training.base import Base


@pytest.fixture
def job(tiny_llama: Path, shows_csv: Path, tmp_path: Path) -> Job:
    data = {"path": str(shows_csv), "text": "description", "max_rows": 30}
    recipe = Recipe(model=str(tiny_llama), data=data, train={"max_length": 64})
    made = prepare_inputs(recipe, lambda *_: None, small=False)
    plan = make_plan(recipe, made.data, detect_machine(), source=made.source)
    run_dir = RunDir.create(tmp_path / "run")
    return Job(recipe, plan, made.source, made.tokenizer, made.data, run_dir, {}, None, Base())


def test_every_run_trains_a_copy_of_its_own(job: Job) -> None:
    assert job.base is not None
    first = build_model(job)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.zero_()
    second = build_model(job)
    for (name, loaded), parameter in zip(load_model(job.source).named_parameters(), second.parameters(), strict=True):
        assert torch.equal(loaded, parameter), name
    assert second.get_input_embeddings().weight is second.get_output_embeddings().weight, "tied, as it was read"
    half = job.base.model(replace(job, plan=job.plan.model_copy(update={"dtype": "bfloat16"})))
    assert next(half.parameters()).dtype == torch.bfloat16


def test_the_base_is_scored_once_for_each_arithmetic(job: Job) -> None:
    assert job.base is not None
    asked: list[str] = []

    def score() -> Scores:
        asked.append("scored")
        return Scores(1.0, 2.7, 1.0, 0.1, 10, 1, 0.1, document_loss=None)

    assert job.base.scores(job, score) is job.base.scores(job, score)
    assert len(asked) == 1
    job.base.scores(replace(job, plan=job.plan.model_copy(update={"precision": "bf16"})), score)
    assert len(asked) == 2
