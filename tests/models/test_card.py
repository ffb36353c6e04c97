"""The model card: what the plan decided, no place of this machine, a snippet that runs with plain transformers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tunesmith import Recipe
from tunesmith.models.adapters import attach_lora
from tunesmith.models.card import model_card
from tunesmith.models.find import EMBEDDED, ModelSource, find_model
from tunesmith.models.load import load_model, save_model
from tunesmith.models.tokenizer import load_tokenizer
from tunesmith.recipe import LoraSection
from tunesmith.run.artefacts import DataAccount, Plan, Result
from tunesmith.run.directory import RunDir

MakeCard = Callable[..., str]


@pytest.fixture
def card_of(tiny_run: RunDir, new_plan: Callable[..., Plan]) -> MakeCard:
    """card_of(recipe, source, **values of the plan), with data and result of the tiny run."""

    def make(recipe: Recipe, source: ModelSource | None = None, **values: Any) -> str:
        plan = new_plan(**values)
        account, result = tiny_run.read(DataAccount), tiny_run.read(Result)
        return model_card(recipe, plan, source or find_model(recipe.model.name), account, result)

    return make


def header_of(card: str) -> dict[str, Any]:
    header: dict[str, Any] = yaml.safe_load(card.split("---")[1])
    return header


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks transformers by an old name
@pytest.mark.parametrize("prompts", [["One fine morning"], []])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_snippet_writes_text(
    tiny_llama: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    card_of: MakeCard,
    method: str,
    prompts: list[str],
) -> None:
    recipe = Recipe(model={"name": str(tiny_llama)}, data={"path": "shows.csv"}, compare={"prompts": prompts})
    source = find_model(str(tiny_llama), None)
    model = load_model(source)
    lora = LoraSection() if method == "lora" else None
    if lora is not None:
        model = attach_lora(model, lora, method)
    card = card_of(recipe, method=method, lora=lora)
    save_model(model, load_tokenizer(source), tmp_path / "model", card)
    snippet = card.split("```python\n")[1].split("```")[0]
    assert snippet.count("path/to/model") == 1
    assert snippet.count(f"path/to/{tiny_llama.name}") == (method == "lora")
    snippet = snippet.replace("path/to/model", str(tmp_path / "model"))
    snippet = snippet.replace(f"path/to/{tiny_llama.name}", str(tiny_llama))
    names: dict[str, Any] = {}
    exec(snippet.replace("=80", "=4"), names)
    assert capsys.readouterr().out.startswith(prompts[0] if prompts else "The")
    assert names["write"].tokenizer.name_or_path == str(tmp_path / "model")


def test_the_method_is_the_plans_and_not_the_recipes(tiny_llama: Path, card_of: MakeCard) -> None:
    recipe = Recipe(model={"name": str(tiny_llama)}, data={"path": "shows.csv"}, train={"method": "auto"})
    card = card_of(recipe, method="lora", lora=LoraSection())
    assert header_of(card)["library_name"] == "peft"
    assert header_of(card)["tags"] == ["tunesmith", "lora"]
    assert "The folder is an adapter" in card
    assert "needs `pip install peft`" in card
    whole = card_of(recipe, method="full", learning_rate=3e-4, schedule="cosine", precision="bf16")
    assert header_of(whole)["library_name"] == "transformers"
    assert header_of(whole)["tags"] == ["tunesmith", "full"]
    assert "The folder is a whole model." in whole
    assert "learning rate 0.0003 (cosine), bf16" in whole


def test_numbers_come_from_the_result_and_the_account(tiny_run: RunDir, card_of: MakeCard) -> None:
    account, result = tiny_run.read(DataAccount), tiny_run.read(Result)
    card = card_of(tiny_run.recipe())
    assert f"train {account.splits['train'].documents}" in card
    assert account.fingerprint in card
    assert f"| loss (nats a token) | {result.eval_loss_base:.4g} | {result.eval_loss:.4g} |" in card
    unmeasured = result.model_copy(update={"eval_loss_base": None})
    card = model_card(
        tiny_run.recipe(), tiny_run.read(Plan), find_model(tiny_run.recipe().model.name), account, unmeasured
    )
    assert "| loss (nats a token) | not measured | " in card


def test_no_place_of_this_machine_is_in_the_card(tiny_run: RunDir, tiny_llama: Path, card_of: MakeCard) -> None:
    mixed = [{"path": "/home/anna/one.csv"}, {"path": "hub:owner/two"}]
    recipe = tiny_run.recipe()
    data = recipe.data.model_copy(update={"eval_path": "/home/anna/eval.csv"})
    recipe = recipe.model_copy(update={"data": data})
    for card in (
        (tiny_run.model / "README.md").read_text(encoding="utf-8"),
        card_of(recipe, method="lora", lora=LoraSection()),
        card_of(Recipe(model={"name": str(tiny_llama)}, data={"path": mixed})),
    ):
        assert str(tiny_llama.parent) not in card
        assert "/home" not in card
        assert header_of(card)["base_model"] == tiny_llama.name
    assert "tuned on one.csv + hub:owner/two" in card
    assert f"name: {tiny_llama.name}" in card


def test_an_adapter_of_the_embedded_model_says_what_puts_it_together(tiny_llama: Path, card_of: MakeCard) -> None:
    source = replace(find_model(str(tiny_llama)), name=EMBEDDED, kind="embedded")
    recipe = Recipe(model={"name": EMBEDDED}, data={"path": "shows.csv"}, compare={"prompts": ["It's late"]})
    card = card_of(recipe, source, method="lora", lora=LoraSection())
    assert header_of(card)["base_model"] == EMBEDDED
    assert "tunesmith generate path/to/model --prompt 'It'\"'\"'s late'" in card
    assert "transformers import" not in card
    card = card_of(recipe, replace(source, name="/home/anna/tiny.gguf", kind="gguf"), method="lora", lora=LoraSection())
    assert "puts under it when tiny.gguf lies beside the folder" in card
    assert "/home" not in card


def test_an_adapter_of_a_hub_model_is_loaded_by_its_name(tiny_llama: Path, card_of: MakeCard) -> None:
    source = ModelSource("owner/name", str(tiny_llama), "hub")
    recipe = Recipe(model={"name": "owner/name"}, data={"path": "shows.csv"})
    card = card_of(recipe, source, method="lora", lora=LoraSection())
    assert "transformers loads owner/name under it, which needs `pip install peft`" in card
    assert 'pipeline("text-generation", model, tokenizer=model)' in card


def test_a_dry_run_and_the_test_rows_are_told(tiny_run: RunDir) -> None:
    recipe, plan, result = tiny_run.recipe(), tiny_run.read(Plan), tiny_run.read(Result)
    account, source = tiny_run.read(DataAccount), find_model(recipe.model.name)
    whole = model_card(recipe, plan, source, account, result)
    assert "dry run" not in whole
    assert "test rows" not in whole
    small = account.model_copy(update={"small": True})
    card = model_card(recipe, plan, source, small, result.model_copy(update={"test_loss": 4.3217}))
    assert f"This was a {small.dry_run}: it shows that all works" in card
    assert "| loss on the test rows | not measured | 4.322 |" in card
