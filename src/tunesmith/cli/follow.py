"""Commands that follow runs, or end one, from any shell: runs, status, attach, stop, watch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.options import JsonOption, RunArgument, console, output, print_json

LOOPBACK, WATCH_PORT = "127.0.0.1", 8010


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


def status(run: RunArgument, as_json: JsonOption = False) -> None:
    """Where a run stands: running, stopped, finished, failed or crashed, and the command that goes on with it.

    Example: tunesmith status runs/shows-smollm2 --json
    """
    from tunesmith.run.directory import RunDir
    from tunesmith.run.standing import standing
    from tunesmith.show.runs import describe_standing

    found = standing(RunDir.open(run))
    if as_json:
        print_json(found.to_json())
    else:
        typer.echo(describe_standing(str(run), found))


def stop(
    run: RunArgument,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for its end.")] = 60,
) -> None:
    """Stop a run at the end of its step; it saves, and goes on later. Returns when it has ended.

    Example: tunesmith stop runs/shows-smollm2 --wait 120
    """
    from tunesmith.run.detach import stop_run
    from tunesmith.run.directory import RunDir
    from tunesmith.show.runs import describe_standing

    found = stop_run(RunDir.open(run), wait, lambda line: typer.echo(line, err=True))
    typer.echo(describe_standing(str(run), found))


def attach(run: RunArgument) -> None:
    """Follow a run's log until it ends. Ctrl-C leaves it running.

    Example: tunesmith attach runs/shows-smollm2
    """
    from tunesmith.run.directory import RunDir
    from tunesmith.show.follow import follow
    from tunesmith.show.runs import describe_standing

    found = follow(RunDir.open(run), console())
    typer.echo(describe_standing(str(run), found))


def watch(
    run: Annotated[Path, typer.Argument(help="A run, or a folder of runs.", metavar="RUN")],
    once: Annotated[bool, typer.Option("--once", help="Print the screen once.")] = False,
    web: Annotated[bool, typer.Option("--web", help="A page for a browser instead of the screen.")] = False,
    host: Annotated[
        str, typer.Option(help="Where --web listens; others than this machine's own need a key.")
    ] = LOOPBACK,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of --web; 0 takes a free one.")] = WATCH_PORT,
    api_key_file: Annotated[
        Path | None, typer.Option(help="File that holds the key of --web; else $TUNESMITH_API_KEY.")
    ] = None,
    price: Annotated[float | None, typer.Option(min=0, help="Price of the machine per hour.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Watch a run, or several: loss curve, speed, time left, device, log. Ctrl-C leaves it running.

    --web shows the same in a browser, at the address that it prints; over SSH: ssh -L 8010:127.0.0.1:8010 MACHINE.

    Example: tunesmith watch runs/shows-smollm2 --price 1.2
    """
    if web:
        from tunesmith.watch.server import serve_page
        from tunesmith.web import read_key

        serve_page(run, price, host=host, port=port, key=read_key(api_key_file), say=typer.echo)
        return
    from tunesmith.run.table import find_runs
    from tunesmith.watch.screen import render
    from tunesmith.watch.screen import watch as show
    from tunesmith.watch.view import View

    views = [View.of(found) for found in find_runs(run)]
    if as_json:
        print_json([view.to_json() for view in views] if len(views) > 1 else views[0].to_json())
    elif once or not output().is_terminal:
        console_ = output()
        console_.print(render(views, console_.width, 24, price))
    else:
        show(views, output(), price)
