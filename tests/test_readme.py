"""The README's commands and Python run as printed, in the order printed, on the embedded model."""

from __future__ import annotations

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tunesmith.recipe import Recipe

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
SHORTER = (
    ("train:\n", "train:\n  max_steps: 2\n"),
    ("compare:\n", "compare:\n  num_samples: 4\n  max_new_tokens: 12\n"),
)
"""What is changed in the recipe that init wrote, so that the rest takes seconds."""


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert found is not None
    return found[1]


def commands() -> list[str]:
    return [line.split("#")[0].strip() for line in README.splitlines() if line.startswith("    tunesmith ")]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, shows_csv: Path) -> Path:
    """A newcomer's folder: 60 rows in the column that the README names."""
    folder = tmp_path_factory.mktemp("newcomer")
    with shows_csv.open(encoding="utf-8") as file:
        rows = [row["description"] for row in csv.DictReader(file)][:60]
    with (folder / "poems.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["body"])
        writer.writerows([row] for row in rows)
    return folder


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def shorten(recipe: Path) -> None:
    text = recipe.read_text(encoding="utf-8")
    for section, shorter in SHORTER:
        assert f"\n{section}" in text
        text = text.replace(f"\n{section}", f"\n{shorter}")
    recipe.write_text(text, encoding="utf-8")


def test_the_shortest_recipe_is_one() -> None:
    recipe = Recipe.parse(yaml.safe_load(block("yaml")))
    assert (recipe.data.path, recipe.data.text) == ("poems.csv", "body")


def test_pictures_and_pages_are_there() -> None:
    for target in re.findall(r"\]\(([\w./-]+)\)", README):
        assert (Path(__file__).parents[1] / target).exists(), target


def test_the_readme_names_the_whole_path() -> None:
    verbs = [command.split()[1] for command in commands()]
    assert verbs == ["doctor", "init", "plan", "data", "train", "train", "compare", "report", "generate"]


def test_commands_run_as_printed(workplace: Path) -> None:
    for command in commands():
        done = run(shlex.split(command), workplace)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        if " init " in command:
            shorten(workplace / "poems.yaml")
    assert (workplace / "runs" / "poems" / "report.html").is_file()
    assert (workplace / "runs" / "poems-small" / "result.json").is_file()


def test_python_runs_as_printed(workplace: Path) -> None:
    done = run([sys.executable, "-c", block("python")], workplace)
    assert done.returncode == 0, done.stderr
