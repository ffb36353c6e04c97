"""The model card: its snippet runs with plain transformers, on a whole model and on an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tunesmith import Recipe
from tunesmith.models.adapters import attach_lora
from tunesmith.models.card import model_card
from tunesmith.models.find import find_model
from tunesmith.models.load import load_model, save_model
from tunesmith.models.tokenizer import load_tokenizer

RESULT: dict[str, Any] = {"steps": 3, "train_tokens": 1000, "train_seconds": 2.0, "eval_loss": 2.5}


def card_of(recipe: Recipe) -> str:
    return model_card(recipe, find_model(recipe.model.name, None), {}, RESULT)


@pytest.mark.parametrize("prompts", [["One fine morning"], []])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_snippet_writes_text(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str, prompts: list[str]
) -> None:
    recipe = Recipe(
        model={"name": str(tiny_llama)},
        data={"path": "shows.csv"},
        train={"method": method},
        compare={"prompts": prompts},
    )
    source = find_model(str(tiny_llama), None)
    model = load_model(source)
    if method == "lora":
        model = attach_lora(model, recipe.lora, method)
    card = card_of(recipe)
    save_model(model, load_tokenizer(source), tmp_path / "model", card)
    snippet = card.split("```python\n")[1].split("```")[0]
    assert snippet.count("path/to/model") == 1
    names: dict[str, Any] = {}
    exec(snippet.replace("path/to/model", str(tmp_path / "model")).replace("=80", "=4"), names)
    assert capsys.readouterr().out.startswith(prompts[0] if prompts else "The")
    assert names["write"].tokenizer.name_or_path == str(tmp_path / "model")


def test_an_adapter_says_what_it_needs_and_a_missing_score_is_not_a_number(tiny_llama: Path) -> None:
    recipe = Recipe(model={"name": str(tiny_llama)}, data={"path": "shows.csv"}, train={"method": "lora"})
    card = card_of(recipe)
    assert "library_name: peft" in card
    assert "needs `pip install peft`" in card
    assert "| loss (nats a token) | not measured | 2.5 |" in card
