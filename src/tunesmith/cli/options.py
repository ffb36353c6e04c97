"""What several commands share: options, and where they print."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

RecipeArgument = Annotated[Path, typer.Argument(help="Recipe file (YAML).", metavar="RECIPE", show_default=False)]
RunArgument = Annotated[Path, typer.Argument(help="Run directory that `tunesmith train` wrote.", metavar="RUN")]
ModelArgument = Annotated[
    str,
    typer.Argument(
        help="A run directory, a model directory, a hub id, a GGUF file, or smollm2-135m (embedded).",
        metavar="RUN_OR_MODEL",
        show_default=False,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a recipe value. Repeatable.", metavar="SECTION.KEY=VALUE"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]


@dataclass
class Asked:
    """Options that stand before the command, and what else every command may ask."""

    quiet: bool = False
    verbose: bool = False
    debug: bool = False
    commands: tuple[str, ...] = ()
    """Names of all commands that exist."""


asked = Asked()


def console() -> Console:
    """What is said meanwhile: on standard error, and not with -q."""
    from rich.console import Console

    return Console(stderr=True, quiet=asked.quiet)


def output() -> Console:
    """Results, on standard output."""
    from rich.console import Console

    return Console()


def number(value: Any) -> str:
    """A score as a line shows it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_json(value: Any) -> None:
    """Numbers that are not finite are null."""
    import json

    from tunesmith.disk import finite

    typer.echo(json.dumps(finite(value), indent=2, ensure_ascii=False))
