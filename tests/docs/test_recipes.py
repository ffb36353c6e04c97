"""Every recipe that a page shows can be read, and docs/recipes.md names every file of recipes/."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tunesmith.recipe import Recipe

ROOT = Path(__file__).parents[2]
THEIRS = ("base_model", "model_name_or_path")
"""A block that holds one is another tool's configuration."""
BLOCKS = [
    (page.name, block)
    for page in [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]
    for block in re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    if not any(name in yaml.safe_load(block) for name in THEIRS)
]


@pytest.mark.parametrize(("page", "block"), BLOCKS, ids=[f"{page}-{number}" for number, (page, _) in enumerate(BLOCKS)])
def test_it_can_be_read(page: str, block: str) -> None:
    values: dict[str, Any] = {"model": "smollm2-135m", "data": "rows.csv", **yaml.safe_load(block)}
    Recipe.parse(values, page)


def test_every_file_is_named() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| `(\S+\.yaml)` \|", page, re.MULTILINE)
    assert sorted(named) == sorted(path.name for path in (ROOT / "recipes").glob("*.yaml"))
