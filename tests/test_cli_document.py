"""docs/commands.md is what the commands say of themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer

from tunesmith.cli import COMMANDS, app
from tunesmith.cli.document import document


def test_the_page_is_made_from_the_commands() -> None:
    page = Path(__file__).parents[1] / "docs" / "commands.md"
    again = "python -m tunesmith.cli.document > docs/commands.md"
    assert page.read_text(encoding="utf-8") == document(), f"write it again: {again}"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_an_example_and_every_option_its_meaning(name: str) -> None:
    group: Any = typer.main.get_command(app)
    command = group.commands[name]
    assert f"tunesmith {name}" in command.help.partition("Example: ")[2]
    silent = [parameter.name for parameter in command.params if not parameter.hidden and not parameter.help]
    assert silent == []
