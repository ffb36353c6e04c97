"""What the hosted files name exists, and what is said once is said once."""

from __future__ import annotations

import os
import re
import runpy
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


@pytest.mark.parametrize("address", ["https://host.example/owner/tunesmith", None])
def test_the_readme_of_a_release_leads_nowhere_that_an_index_lacks(address: str | None) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    stand_alone = runpy.run_path(str(ROOT / ".ci" / "readme.py"))["stand_alone"]
    alone = stand_alone(text, ROOT, "v1.2.3", address)
    targets = re.findall(r"\]\(([^)]+)\)", alone)
    if address is None:
        assert not targets
        assert "docs/quickstart.md" in alone
    else:
        assert len(targets) == len(re.findall(r"\]\(([^)]+)\)", text))
        assert all(target.startswith(f"{address}/") for target in targets)
        assert f"]({address}/raw/v1.2.3/docs/images/report-desktop.png)" in alone
        assert f"]({address}/tree/v1.2.3/examples)" in alone
        assert f"]({address}/blob/v1.2.3/docs/fast.md#supported)" in alone
