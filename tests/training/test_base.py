"""What runs of one process share: every one begins with the same weights, which are read once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tunesmith import Recipe
from tunesmith.data.shares import share_of
from tunesmith.evaluate import Scores
from tunesmith.models.load import load_model
from tunesmith.pipeline import prepare_inputs
from tunesmith.plan import detect_machine, make_plan
from tunesmith.run.directory import RunDir
from tunesmith.training import Job, build_model
from tunesmith.training.base import Base, standard_error


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
        losses = np.ones(len(job.data.eval))
        return Scores(1.0, 2.7, 1.0, 0.1, len(losses), len(losses), 0.1, document_loss=losses)

    assert job.base.scores(job, score) is job.base.scores(job, score)
    assert len(asked) == 1
    job.base.scores(replace(job, plan=job.plan.model_copy(update={"precision": "bf16"})), score)
    assert len(asked) == 2


def test_the_base_is_scored_once_for_the_same_held_out_rows(job: Job) -> None:
    """However many rows are trained on."""
    assert job.base is not None
    losses = np.ones(len(job.data.eval))
    scores = Scores(1.0, 2.7, 1.0, 0.1, len(losses), len(losses), 0.1, document_loss=losses)
    assert job.base.scores(job, lambda: scores) is scores
    fewer = replace(job, data=share_of(job.data, 20, seed=7))
    assert fewer.data.fingerprint != job.data.fingerprint
    assert job.base.scores(fewer, lambda: replace(scores)) is scores


def test_the_error_of_a_loss_is_that_of_drawing_other_documents() -> None:
    """As many draws of the documents give it, whatever their lengths."""
    random = np.random.default_rng(0)
    tokens = random.integers(5, 80, 400)
    losses = tokens * random.normal(3.0, 0.4, 400)
    drawn = random.integers(0, 400, (2000, 400))
    spread = (losses[drawn].sum(axis=1) / tokens[drawn].sum(axis=1)).std()
    assert standard_error(losses, tokens) == pytest.approx(spread, rel=0.08)
    assert standard_error(losses[:1], tokens[:1]) is None
