"""Commands that begin: init and schema."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.options import console, print_json


def init(
    data: Annotated[
        str | None,
        typer.Argument(
            help="A file, folder, glob or hub:owner/name to look at; without it, a template.",
            metavar="DATA",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--output", help="The recipe; default <name of DATA>.yaml.", show_default=False)
    ] = None,
    from_: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Another tool's configuration: Axolotl, LLaMA-Factory, TRL, transformers.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Write a recipe with comments: looks at your data, chooses what a row is and a model that fits this machine.

    Example: tunesmith init poems.csv
    """
    if data is not None and from_ is not None:
        raise typer.BadParameter("give DATA or --from, not both")
    from tunesmith.init import stage
    from tunesmith.show.doing import Doing

    if from_ is not None:
        written = stage.from_config(from_, out, force=force)
    elif data is None:
        written = stage.from_nothing(out, force=force)
    else:
        with Doing(console(), "init") as doing:
            written = stage.from_data(data, out, doing, force=force)
    for line in written.said:
        console().print(line, highlight=False, markup=False, soft_wrap=True)
    recipe = shlex.quote(str(written.path))
    then = f"; then: tunesmith train {recipe} --out {shlex.quote(written.out)}" if written.out else ""
    typer.echo(f"wrote {written.path}; next:")
    for command, why in (
        (f"tunesmith data {recipe}", "what the model will see"),
        (f"tunesmith plan {recipe}", "memory, time and disk"),
        (f"tunesmith train {recipe} --small", f"a dry run on 100 rows, if there are more{then}"),
    ):
        typer.echo(f"  {command:<44}  # {why}")


def schema() -> None:
    """Print the recipe's JSON schema: every key, its default, what it means.

    Example: tunesmith schema > recipe.schema.json
    """
    from tunesmith.schema import recipe_schema

    print_json(recipe_schema())
