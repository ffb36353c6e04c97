"""Every tunesmith command that a page shows is one that the command line takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from tunesmith.cli import COMMANDS, app

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", *sorted((ROOT / "recipes").rglob("*.yaml"))]
SHOWN = re.compile(r"(?:^ {4}(?:\$ )?|: )(tunesmith [a-z][^`\n]*)$|`(tunesmith [a-z][^`]*)`", re.MULTILINE)
GROUP: Any = typer.main.get_command(app)


def commands(page: Path) -> list[str]:
    """As they stand there, without a comment behind them and what they are piped into."""
    text = page.read_text(encoding="utf-8").replace("\\\n", "")  # lines that go on
    text = re.sub(r"```(?!yaml|sh).*?```", "", text, flags=re.DOTALL)
    found = [(match[1] or match[2]).split(" #")[0].split(" > ")[0].split("; ")[0] for match in SHOWN.finditer(text)]
    return [command.strip() for command in found if len(command.split()) > 2]


CASES = [(page.name, command) for page in PAGES for command in commands(page)]


def test_there_are_many() -> None:
    assert len(CASES) > 150


@pytest.mark.parametrize(("page", "command"), sorted(set(CASES)))
def test_it_is_taken(page: str, command: str) -> None:
    words = shlex.split(command.replace(" [OPTIONS]", ""))
    words = [word for word in words if not word.startswith("$")]  # `$few` of a page, which says what it stands for
    name, arguments = words[1], words[2:]
    assert name in COMMANDS, f"{page}: {command}"
    try:
        GROUP.commands[name].make_context(name, arguments)
    except Exception as error:
        if type(error).__name__ != "MissingParameter":  # `tunesmith train --small`, where a page speaks of the option
            raise
