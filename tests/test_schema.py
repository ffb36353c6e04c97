"""The schema says what a recipe accepts, with the docstrings as descriptions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from tunesmith.cli import app
from tunesmith.recipe import Recipe
from tunesmith.schema import document, recipe_schema

RECIPES = sorted((Path(__file__).parents[1] / "recipes").rglob("*.yaml"))


def test_every_key_is_there_with_its_default() -> None:
    schema = recipe_schema()
    for section, field in Recipe.model_fields.items():
        keys: Any = field.annotation
        described = schema["$defs"][keys.__name__]
        assert set(described["properties"]) == set(keys.model_fields)
        assert described["additionalProperties"] is False
        assert described["description"]
        assert section in schema["properties"]
    assert schema["$defs"]["TrainSection"]["properties"]["epochs"]["default"] == 1
    assert sorted(schema["required"]) == ["data", "model"]


def test_descriptions_are_the_docstrings() -> None:
    sections = recipe_schema()["$defs"]
    assert sections["TrainSection"]["properties"]["learning_rate"]["description"] == "Highest rate of the schedule."
    assert "hub:owner/name" in sections["DataSection"]["properties"]["path"]["description"]
    assert "\n" not in sections["DataSection"]["properties"]["path"]["description"]


def test_short_forms_are_allowed() -> None:
    schema = recipe_schema()
    assert {"string"} < {entry.get("type") for entry in schema["properties"]["model"]["anyOf"]} | {None, "x"}
    prompts = schema["$defs"]["CompareSection"]["properties"]["prompts"]
    assert "string" in {entry.get("type") for entry in prompts["anyOf"]}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_use_its_keys(path: Path) -> None:
    schema = recipe_schema()
    for section, values in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        reference = json.dumps(schema["properties"][section])
        name = reference.split("#/$defs/")[1].split('"')[0]
        assert set(values) <= set(schema["$defs"][name]["properties"])


def test_the_command_prints_it() -> None:
    done = CliRunner().invoke(app, ["schema"])
    assert done.exit_code == 0
    assert json.loads(done.stdout) == json.loads(json.dumps(recipe_schema()))


def test_the_page_is_made_from_the_classes() -> None:
    page = Path(__file__).parents[1] / "docs" / "recipe.md"
    assert page.read_text(encoding="utf-8") == document(), "write it again: python -m tunesmith.schema > docs/recipe.md"


def test_every_key_says_what_it_is() -> None:
    sections = recipe_schema()["$defs"]
    silent = [
        f"{section}.{key}"
        for section, described in sections.items()
        for key, value in described["properties"].items()
        if not value.get("description") and section != "Source"
    ]
    assert silent == []
