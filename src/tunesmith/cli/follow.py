"""Commands that follow runs: runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.options import JsonOption, output, print_json


def runs(
    folder: Annotated[Path, typer.Argument(help="Folder that holds runs.")] = Path("runs"), as_json: JsonOption = False
) -> None:
    """List the runs in a folder with their metrics.

    Example: tunesmith runs runs
    """
    from tunesmith.run.table import list_runs as find_runs
    from tunesmith.show.runs import print_runs

    table = find_runs(folder)
    if as_json:
        print_json(table.to_json())
    else:
        print_runs(table, output())
