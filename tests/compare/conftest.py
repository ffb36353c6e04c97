"""A finished run made without training: a tiny base, and a copy of it with nudged weights as the tuned model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.recipe import Recipe
from tunesmith.run.directory import DATA, RESULT, RunDir


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, shows_csv: Path) -> RunDir:
    """72 training and 18 held-out shows, sliced by genre; scores are computed on 12 samples of 12 tokens."""
    import torch
    from transformers import AutoModelForCausalLM

    from tunesmith.data import prepare
    from tunesmith.models.find import find_model
    from tunesmith.models.tokenizer import load_tokenizer

    recipe = Recipe(
        model={"name": str(tiny_llama)},
        data={"path": str(shows_csv), "text": "description", "slice": "genre", "max_rows": 90, "eval_fraction": 0.2},
        compare={"num_samples": 12, "max_new_tokens": 12, "prompts": ["One fine morning"]},
    )
    run_dir = RunDir.create(tmp_path_factory.mktemp("runs") / "shows")
    tokenizer = load_tokenizer(find_model(str(tiny_llama)))
    run_dir.write_recipe(recipe)
    run_dir.write_json(DATA, prepare(recipe.data, tokenizer, recipe.train.max_length).audit)
    run_dir.write_json(RESULT, {"eval_loss": 5.0, "eval_loss_base": 6.0, "steps": 3, "stopped": None})
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(run_dir.model)
    tokenizer.save(run_dir.model)
    return run_dir
