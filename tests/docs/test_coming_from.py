"""docs/coming-from.md: each configuration is converted to the recipe that stands below it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tunesmith.init.stage import from_config
from tunesmith.recipe import Recipe

PAGE = (Path(__file__).parents[2] / "docs" / "coming-from.md").read_text(encoding="utf-8")
PAIRS = re.findall(r"```yaml\n([^`]*?)```\n\n`tunesmith init --from (\S+)`\n\n```yaml\n(.*?)```", PAGE, re.DOTALL)


def test_three_tools_are_shown() -> None:
    assert [name for _, name, _ in PAIRS] == ["axolotl.yaml", "llama-factory.yaml", "trl.yaml"]


@pytest.mark.parametrize(("theirs", "name", "ours"), PAIRS, ids=[name for _, name, _ in PAIRS])
def test_a_configuration_becomes_the_recipe_below_it(
    theirs: str, name: str, ours: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(theirs, encoding="utf-8")
    described = re.search(r"`data/dataset_info\.json`\n`(.*)`", PAGE)
    assert described is not None
    Path("data").mkdir()
    Path("data/dataset_info.json").write_text(described[1], encoding="utf-8")
    written = from_config(Path(name), Path("recipe.yaml"), force=False)
    assert written.path.read_text(encoding="utf-8") == ours
    Recipe.load(written.path)
