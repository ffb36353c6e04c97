"""What the hosted files name exists, and what is said once is said once."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest
import yaml

import tunesmith

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github").rglob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
SAID = "\n".join(
    path.read_text(encoding="utf-8") for path in [*WORKFLOWS, ROOT / "CONTRIBUTING.md", ROOT / ".ci" / "run"]
)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_hosted_file_is_yaml(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


def test_targets_of_make_that_are_named_exist() -> None:
    named = set(re.findall(r"make ([a-z][a-z-]+)", SAID)) - {"sure"}
    assert named
    for target in named:
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target


def test_scripts_that_are_named_can_be_run() -> None:
    for name in set(re.findall(r"\.ci/[a-z]+", SAID)):
        assert os.access(ROOT / name, os.X_OK), name


def test_the_version_stands_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "src/tunesmith/__init__.py"
    assert re.fullmatch(r"\d+\.\d+\.\d+", tunesmith.__version__)
