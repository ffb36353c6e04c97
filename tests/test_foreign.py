"""Names of other tools are refused with ours, and each of ours exists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tunesmith.errors import RecipeError
from tunesmith.foreign import FOREIGN, NoCounterpart, document, find_foreign
from tunesmith.recipe import Recipe

OPTIONS = ("--out", "--fresh", "--resume")


def test_each_of_our_names_exists() -> None:
    keys = {
        f"{section}.{name}" for section, field in Recipe.model_fields.items() for name in field.annotation.model_fields
    }
    assert {entry.ours for entry in FOREIGN} - {""} <= keys | set(OPTIONS)


def test_no_name_is_one_of_ours_or_stands_twice() -> None:
    names = [name for entry in FOREIGN for name in entry.names]
    assert len(names) == len(set(names))
    ours = {name for field in Recipe.model_fields.values() for name in field.annotation.model_fields}
    assert not ours & set(names)


@pytest.mark.parametrize("entry", FOREIGN, ids=lambda entry: entry.names[0])
def test_a_recipe_with_it_is_refused_with_ours(entry: Any) -> None:
    for name in entry.names:
        for values in ({name: 1}, {"train": {name: 1}}):
            with pytest.raises(RecipeError, match="another tool") as caught:
                Recipe(model="m", data="a.csv", **values)
            assert entry.ours in str(caught.value)


def test_an_override_with_it_is_refused_with_ours(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("{model: m, data: a.csv}")
    for override in ("lr=1e-4", "train.lr=1e-4"):
        with pytest.raises(RecipeError, match=r"another tool's name\. Here: train\.learning_rate"):
            Recipe.load(path, [override])


def test_the_page_is_made_from_the_table() -> None:
    page = Path(__file__).parents[1] / "docs" / "names.md"
    assert page.read_text(encoding="utf-8") == document(), "write it again: python -m tunesmith.foreign > docs/names.md"


def converted(name: str, value: object) -> object:
    entry = find_foreign(name)
    assert entry is not None
    return entry.convert(value)


@pytest.mark.parametrize(
    ("name", "value", "ours"),
    [
        ("base_model", "owner/name", "owner/name"),
        ("TORCH-DTYPE", "torch.bfloat16", "bfloat16"),
        ("torch_dtype", "half", "float16"),
        ("val_set_size", "0.05", 0.05),
        ("val_set_size", 0, 0),
        ("val_set_size", "all", "all"),
        ("validation_split_percentage", 5, 0.05),
        ("max_samples", "1000", 1000),
        ("num_train_epochs", 3.0, 3),
        ("lr", "1e-4", 1e-4),
        ("lr", True, True),
        ("lr_scheduler_type", "cosine_with_restarts", "cosine"),
        ("optim", "paged_adamw_8bit", "adamw8bit"),
        ("optim", "OptimizerNames.ADAMW_TORCH_FUSED", "adamw"),
        ("optimizer_type", "muon", "muon"),
        ("bf16", True, "bf16"),
        ("bf16", "auto", "auto"),
        ("load_in_4bit", "true", "qlora"),
        ("adapter", "qlora", "qlora"),
        ("finetuning_type", None, "full"),
        ("use_rslora", "false", False),
        ("init_lora_weights", "pissa_niter_16", "pissa"),
        ("init_lora_weights", True, "zero"),
        ("target_modules", ["q_proj"], ["q_proj"]),
        ("lora_target", "q_proj, v_proj", ["q_proj", "v_proj"]),
        ("lora_target_linear", True, "all-linear"),
        ("eval_steps", "50", 50),
        ("save_total_limit", 3, 3),
    ],
)
def test_a_value_becomes_ours(name: str, value: object, ours: object) -> None:
    found = converted(name, value)
    assert (found, type(found)) == (ours, type(ours))


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("val_size", 200, "counts rows, 200"),
        ("lr_scheduler_type", "polynomial", "polynomial has no counterpart"),
        ("optim", "lion", "auto takes AdamW"),
        ("fp16", False, "switched off"),
        ("init_lora_weights", "olora", "zero begins as the base model"),
        ("lora_target", None, "nothing was named"),
        ("eval_steps", 0.1, "counted in other units"),
        ("save_total_limit", None, "the last two"),
        ("micro_batch_size", 4, "counts rows"),
    ],
)
def test_a_value_without_a_counterpart_says_what_happens_instead(name: str, value: object, why: str) -> None:
    with pytest.raises(NoCounterpart, match=why):
        converted(name, value)


def test_a_name_that_nobody_uses_is_none() -> None:
    assert find_foreign("learning_ratio") is None
