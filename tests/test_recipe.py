"""The recipe: every problem at once, with its key, what was found and what to write instead."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from pydantic import ValidationError

from tunesmith.errors import RecipeError
from tunesmith.recipe import Recipe, duration_seconds

MINIMAL = "model: {name: m}\ndata: {path: a.csv, text: t}\n"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "poems.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def complaint(tmp_path: Path, text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        Recipe.load(write(tmp_path, text))
    return str(caught.value)


def test_defaults_fill_in(tmp_path: Path) -> None:
    recipe = Recipe.load(write(tmp_path, MINIMAL))
    assert recipe.train.method == "full"
    assert recipe.train.learning_rate == "auto"
    assert recipe.train.tokens_per_step == "auto"
    assert recipe.save.keep == 2
    assert recipe.compare.prompts == ("One fine morning", "A boy and a girl")


def test_resolved_recipe_reads_back_equal(tmp_path: Path) -> None:
    recipe = Recipe.load(write(tmp_path, MINIMAL), ["train.epochs=3", "save.every=10m"])
    assert Recipe.load(write(tmp_path, recipe.to_yaml())) == recipe


def test_a_recipe_cannot_be_changed() -> None:
    recipe = Recipe(model={"name": "m"}, data={"path": "a.csv"})
    with pytest.raises(ValidationError):
        recipe.train.epochs = 2


def test_overrides(tmp_path: Path) -> None:
    recipe = Recipe.load(
        write(tmp_path, MINIMAL), ["train.learning_rate=5e-5", "data.text=body", "compare.prompts=[a]"]
    )
    assert (recipe.train.learning_rate, recipe.data.text, recipe.compare.prompts) == (5e-5, "body", ("a",))


@pytest.mark.parametrize("override", ["train", "epochs=3", "=3", "train.=3", ".epochs=3"])
def test_malformed_override(tmp_path: Path, override: str) -> None:
    with pytest.raises(RecipeError, match=r"expected section\.key=value"):
        Recipe.load(write(tmp_path, MINIMAL), [override])


def test_unknown_key_suggests_the_right_one(tmp_path: Path) -> None:
    text = complaint(tmp_path, MINIMAL + "train: {learning_rte: 1}\n")
    assert "poems.yaml: train.learning_rte: unknown key. Did you mean train.learning_rate?" in text


def test_key_in_the_wrong_section_names_its_home(tmp_path: Path) -> None:
    assert "Did you mean train.epochs?" in complaint(tmp_path, "model: {name: m}\ndata: {path: a, epochs: 3}\n")


def test_all_problems_at_once(tmp_path: Path) -> None:
    text = complaint(
        tmp_path, "model: {nam: m}\ndata: {path: a}\ntrian: {}\ntrain: {epochs: -1, seed: many}\nsave: {every: soon}\n"
    )
    for key in ("model.name", "model.nam", "trian", "train.epochs", "train.seed", "save.every"):
        assert f" {key}: " in text
    assert len(text.splitlines()) == 6


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- a\n- b\n", "found a list"),
        ("", "found nothing"),
        ("model: [", "not valid YAML"),
        ("model: &a {name: x}\ndata: *a\n", "aliases are not supported"),
        ("model: !!python/object/apply:os.system [echo]\n", "not valid YAML"),
        (MINIMAL + "train: {tokens_per_step: -4}\n", "train.tokens_per_step"),
        (MINIMAL + "train: {method: sparse}\n", "'full', 'lora', 'dora', 'qlora' or 'auto'"),
        ("model: {name: m}\ndata: {path: a, prompt: p}\n", "prompt and completion go together"),
        ("model: {name: m}\ndata: {path: a, text: t, messages: m}\n", "a row is one of"),
        ("model: {name: m}\ndata: {path: a, eval_fraction: 0.5, test_fraction: 0.5}\n", "leave no training rows"),
        ("model: {name: m}\ndata: {path: []}\n", "empty list"),
        ("model: {name: m}\ndata: {path: [{path: a, wieght: 2}]}\n", "Did you mean data.path.0.weight?"),
    ],
)
def test_bad_recipes(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in complaint(tmp_path, text)


def test_missing_file_suggests_a_near_one(tmp_path: Path) -> None:
    write(tmp_path, MINIMAL)
    with pytest.raises(RecipeError, match=r"Did you mean .*poems\.yaml"):
        Recipe.load(tmp_path / "poem.yaml")


def test_directory_and_encoding_and_size(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is a directory"):
        Recipe.load(tmp_path)
    path = tmp_path / "r.yaml"
    path.write_bytes(b"model: \xff\n")
    with pytest.raises(RecipeError, match="byte 7 is not UTF-8"):
        Recipe.load(path)
    path.write_bytes(b"#" * 1_000_001)
    with pytest.raises(RecipeError, match="at most 1000000"):
        Recipe.load(path)


def test_durations() -> None:
    assert duration_seconds("90s") == 90
    assert duration_seconds("1.5h") == 5400
    for text in ("10", "m", "10 m", "-1m"):
        with pytest.raises(ValueError, match="not a duration"):
            duration_seconds(text)


def test_shipped_recipes_are_valid() -> None:
    paths = sorted((Path(__file__).parents[1] / "recipes").rglob("*.yaml"))
    assert len(paths) >= 6
    for path in paths:
        Recipe.load(path)


def test_one_text_stands_for_a_section_or_a_list_of_one() -> None:
    recipe = Recipe(
        model="m", data="a.csv", train={"method": "LoRA", "report_to": "wandb"}, compare={"prompts": "One fine morning"}
    )
    assert (recipe.model.name, recipe.data.path, recipe.train.method) == ("m", "a.csv", "lora")
    assert (recipe.train.report_to, recipe.compare.prompts) == (("wandb",), ("One fine morning",))


@pytest.mark.parametrize("key", ["data.seed=20261127150000123456789", "train.seed=4294967296", "compare.seed=-1"])
def test_a_seed_that_generators_cannot_take_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(RecipeError, match=key.split("=")[0]):
        Recipe.load(write(tmp_path, MINIMAL), [key])


@pytest.mark.parametrize(
    "name", ["recipes.csv", "rows.jsonl", "a.json", "b.parquet", "c.csv.gz", "my poems.txt", "d.zip"]
)
def test_data_in_the_place_of_a_recipe_is_told(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("title,text\nOne,A story\n")
    with pytest.raises(RecipeError, match="this is data, not a recipe") as caught:
        Recipe.load(tmp_path / name)
    assert f"tunesmith init {shlex.quote(str(tmp_path / name))}" in str(caught.value)
    (tmp_path / name).unlink()
    with pytest.raises(RecipeError, match="no such file"):
        Recipe.load(tmp_path / name)


def test_overrides_of_plain_values() -> None:
    values = {"model": {"name": "m"}, "data": {"path": "a.csv"}}
    assert Recipe.parse(values, overrides=["data.text=body", "train.epochs=2"]).train.epochs == 2
    assert values == {"model": {"name": "m"}, "data": {"path": "a.csv"}}


def test_a_number_of_thousands_of_digits_is_refused(tmp_path: Path) -> None:
    digits = "9" * 5000
    with pytest.raises(RecipeError, match="No value of a recipe is so long"):
        Recipe.load(write(tmp_path, f"model: m\ndata: {{path: a.csv, seed: {digits}}}\n"))
    with pytest.raises(RecipeError, match=r"data\.seed"):
        Recipe.load(write(tmp_path, MINIMAL), [f"data.seed={digits}"])


def test_export_may_be_one_word() -> None:
    recipe = Recipe.parse({"model": "m", "data": "a.csv", "export": "gguf"})
    assert (recipe.export.format, recipe.export.quant) == ("gguf", None)
    assert Recipe.parse({"model": "m", "data": "a.csv"}).export.format is None
    with pytest.raises(RecipeError, match=r"export.quant: Input should be 'f32', 'f16', 'bf16', 'q8_0'"):
        Recipe.parse({"model": "m", "data": "a.csv", "export": {"format": "gguf", "quant": "q2"}})


def test_how_an_adapter_begins_and_is_scaled() -> None:
    recipe = Recipe.parse({"model": "m", "data": "a.csv", "train": {"method": "DoRA"}, "lora": {"init": "pissa"}})
    assert recipe.train.method == "dora"
    assert (recipe.lora.init, recipe.lora.rslora, Recipe.parse({"model": "m", "data": "a.csv"}).lora.init) == (
        "pissa",
        False,
        "zero",
    )


@pytest.mark.parametrize(
    ("train", "why"),
    [
        ({"method": "full"}, "every weight trains"),
        ({"method": "lora", "sharding": "full"}, "goes with one process"),
        ({"method": "lora", "gradient_checkpointing": False}, "backward computes layers again"),
        ({"method": "lora", "cuda_graphs": True}, "no recorded step"),
        ({"method": "lora", "loop": "reference"}, "of train.loop: tunesmith"),
    ],
)
def test_what_does_not_go_with_layers_in_ram(train: dict[str, object], why: str) -> None:
    with pytest.raises(RecipeError, match=f"train.offload: layers: .*{why}"):
        Recipe(model="m", data="d.txt", train={"offload": "layers", **train})
