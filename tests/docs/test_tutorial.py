"""The commands of docs/tutorial.md run in its order, with its recipe, on a model of two layers."""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tunesmith.cli import app

PAGE = (Path(__file__).parents[2] / "docs" / "tutorial.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    \$ (tunesmith .*)$", PAGE, re.MULTILINE)
ELSEWHERE = ("doctor", "init")
"""Their own tests run them; what they say depends on the machine."""
COLUMNS = ("show_id", "type", "title", "release_year", "description")
SHORTER = {
    "train": {"max_length": 64, "max_steps": 2, "rehearse": False},
    "compare": {"num_samples": 4, "max_new_tokens": 8},
}


def is_run(command: str) -> bool:
    return command.split()[1] not in ELSEWHERE and "recipes/" not in command


@pytest.fixture
def workplace(tmp_path: Path, tiny_llama: Path, shows_csv: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a table like Netflix's, and the recipe of the page, which does less."""
    monkeypatch.chdir(tmp_path)
    with shows_csv.open(encoding="utf-8") as file:
        rows = [row["description"] for row in csv.DictReader(file)]
    for name, part in (("netflix_titles.csv", rows[:70]), ("held.csv", rows[-20:])):
        with (tmp_path / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(("s", "Movie", "T", "2021", text) for text in part)
    block = re.search(r"```yaml\n# netflix\.yaml\n(.*?)```", PAGE, re.DOTALL)
    assert block is not None
    recipe = yaml.safe_load(block[1])
    recipe["model"]["name"] = str(tiny_llama)
    for section, values in SHORTER.items():
        recipe[section] = {**recipe.get(section, {}), **values}
    (tmp_path / "netflix.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return tmp_path


def test_the_story_is_whole() -> None:
    told = [command.split()[1] for command in COMMANDS if is_run(command)]
    story = "data train plan train runs eval generate generate compare train train runs"
    assert told == story.split()


@pytest.mark.slow
def test_commands_run_as_printed(workplace: Path) -> None:
    for command in filter(is_run, COMMANDS):
        done = CliRunner().invoke(app, shlex.split(command)[1:])
        assert done.exit_code == 0, f"{command}\n{done.output}\n{done.exception!r}"
    for name in ("netflix", "netflix-small", "netflix-small-accumulated", "netflix-lora"):
        assert (workplace / "runs" / name / "result.json").is_file(), name
    assert (workplace / "runs" / "netflix" / "compare.json").is_file()
    assert (workplace / "runs" / "netflix-lora" / "model" / "adapter_config.json").is_file()
