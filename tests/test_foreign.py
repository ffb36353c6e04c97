"""Names of other tools are refused with ours, and each of ours exists."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.errors import RecipeError
from tunesmith.foreign import FOREIGN, document
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
def test_a_recipe_with_it_is_refused_with_ours(entry: object) -> None:
    for name in entry.names:  # type: ignore[attr-defined]
        for values in ({name: 1}, {"train": {name: 1}}):
            with pytest.raises(RecipeError, match="another tool") as caught:
                Recipe(model="m", data="a.csv", **values)
            assert entry.ours in str(caught.value)  # type: ignore[attr-defined]


def test_an_override_with_it_is_refused_with_ours(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("{model: m, data: a.csv}")
    for override in ("lr=1e-4", "train.lr=1e-4"):
        with pytest.raises(RecipeError, match=r"another tool's name\. Here: train\.learning_rate"):
            Recipe.load(path, [override])


def test_the_page_is_made_from_the_table() -> None:
    page = Path(__file__).parents[1] / "docs" / "names.md"
    assert page.read_text(encoding="utf-8") == document(), "write it again: python -m tunesmith.foreign > docs/names.md"
