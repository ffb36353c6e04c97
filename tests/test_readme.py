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

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
SHORTER = "train: {max_steps: 2}\ncompare: {num_samples: 4, max_new_tokens: 12}\n"


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert found is not None
    return found[1]


def commands() -> list[str]:
    return [line.split("#")[0].strip() for line in README.splitlines() if line.startswith("    tunesmith ")]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, shows_csv: Path) -> Path:
    """A newcomer's folder: the README's recipe and 60 rows in the column that it names."""
    folder = tmp_path_factory.mktemp("newcomer")
    with shows_csv.open(encoding="utf-8") as file:
        rows = [row["description"] for row in csv.DictReader(file)][:60]
    with (folder / "poems.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["body"])
        writer.writerows([row] for row in rows)
    (folder / "poems.yaml").write_text(block("yaml") + SHORTER, encoding="utf-8")
    return folder


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_readme_names_the_whole_path() -> None:
    verbs = [command.split()[1] for command in commands()]
    assert verbs == ["doctor", "plan", "data", "train", "train", "compare", "report", "generate"]


def test_commands_run_as_printed(workplace: Path) -> None:
    for command in commands():
        done = run(shlex.split(command), workplace)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert (workplace / "runs" / "poems" / "report.html").is_file()
    assert (workplace / "runs" / "poems-small" / "result.json").is_file()


def test_python_runs_as_printed(workplace: Path) -> None:
    done = run([sys.executable, "-c", block("python")], workplace)
    assert done.returncode == 0, done.stderr
