"""docs/commands.md, made from the commands themselves: `python -m tunesmith.cli.document > that file`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any

import typer

from tunesmith.cli import app

HEAD = """# Every command

What `tunesmith COMMAND --help` says, on one page. Made from the commands themselves:
`python -m tunesmith.cli.document > docs/commands.md`.

Exit codes: 0 done, 1 a bug, 2 something that you can fix (one message says where, what was found, what was expected and
what to do), 75 stopped before the end and resumable with the printed command.

## tunesmith

Options that stand before the command: `tunesmith -q train recipe.yaml`. `--install-completion` teaches your shell the
commands; `--show-completion` prints what it would write.
"""
COMPLETION = ("install_completion", "show_completion")
"""Typer adds them to the group."""


def document() -> str:
    """The page as Markdown."""
    group: Any = typer.main.get_command(app)
    parts = [HEAD, "\n".join(_table(group))]
    for name, command in group.commands.items():
        arguments = " ".join(
            _name(parameter) if parameter.required else f"[{_name(parameter)}]"
            for parameter in command.params
            if parameter.param_type_name == "argument"
        )
        usage = " ".join(part for part in ("tunesmith", name, arguments, "[OPTIONS]") if part)
        parts.append(f"## tunesmith {name}\n\n    {usage}\n\n{_told(command.help)}\n")
        parts.append("\n".join(_table(command)))
    return "\n".join(parts)


def _told(text: str) -> str:
    """The docstring, its example as code."""
    said, _, example = inspect.cleandoc(text).partition("\n\nExample: ")
    return said + (f"\n\n    {example}" if example else "")


def _table(command: Any) -> Iterator[str]:
    shown = [parameter for parameter in command.params if not parameter.hidden and parameter.name not in COMPLETION]
    if shown:
        yield "| | | default |"
        yield "|---|---|---|"
    for parameter in shown:
        yield f"| {_shown(parameter)} | {_cell(parameter.help)} | {_default(parameter)} |"
    if shown:
        yield ""


def _shown(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{_name(parameter)}`"
    names = ", ".join(f"`{name}`" for name in parameter.opts)
    return names if parameter.is_flag else f"{names} `{_name(parameter)}`"


def _name(parameter: Any) -> str:
    """Of a value: `RUN`, or as the option is called."""
    return str(parameter.metavar).strip("[]{}") if parameter.metavar else str(parameter.name).strip("_").upper()


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default
    if isinstance(parameter.show_default, str):
        return _cell(parameter.show_default)
    if value is None or value is False or parameter.show_default is False:
        return ""
    return f"`{value}`"


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    sys.stdout.write(document())
