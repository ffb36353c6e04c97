"""Commands that train: demo and train."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli.options import JsonOption, RecipeArgument, SetOption, asked, console, number, print_json

if TYPE_CHECKING:
    from tunesmith.launch.processes import Group
    from tunesmith.run.artefacts import Result


def demo(
    out: Annotated[Path, typer.Option(help="Run directory.")] = Path("runs/demo"),
    fast: Annotated[bool, typer.Option("--fast", help="A shorter run: at most 2 minutes on 2 CPU cores.")] = False,
) -> None:
    """Tune the embedded model on the embedded shows: doctor, plan, data, train, compare, report.

    Example: tunesmith demo --out runs/demo
    """
    from tunesmith.demo import demo as run_demo

    report = run_demo(out, fast=fast, console=console())
    typer.echo(f"{report}")


def train(
    recipe: RecipeArgument,
    out: Annotated[
        Path | None, typer.Option(help="Run directory; default runs/<name of the recipe>.", show_default=False)
    ] = None,
    set_: SetOption = None,
    small: Annotated[bool, typer.Option("--small", help="Dry run on about 100 training and 20 held-out rows.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out; it must exist.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete the run in --out and begin again.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Go on with an unfinished run although recipe or data changed.")
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return when the run has begun; it goes on without this shell.")
    ] = False,
    after: Annotated[
        Path | None,
        typer.Option(help="Wait for another run of this machine to end first.", metavar="RUN", show_default=False),
    ] = None,
    stop_on_hangup: Annotated[
        bool, typer.Option("--stop-on-hangup", help="Save and stop when the terminal goes away; else the run goes on.")
    ] = False,
    procs: Annotated[
        int, typer.Option(help="Training processes on this machine, one a GPU; with PET_NNODES more on others.")
    ] = 1,
    as_json: JsonOption = False,
) -> None:
    """Train. An unfinished run in --out goes on where it stopped.

    Example: tunesmith train recipes/shows-smollm2.yaml --set train.epochs=2
    """
    from tunesmith import pipeline
    from tunesmith.launch.processes import Group, is_worker
    from tunesmith.run.artefacts import DataAccount, Result
    from tunesmith.show.following import following

    told, path = pipeline.recipe_and_path(recipe, out, set_ or (), small=small)
    if detach:
        _detach(path, [] if out is not None else ["--out", str(path)])
        return
    group = None if is_worker(os.environ) else Group.of(procs, os.environ)
    if group is not None and group.num_processes > 1:
        raise typer.Exit(_together(group, sys.argv[1:], stop_on_hangup=stop_on_hangup))
    run_dir = pipeline.train(
        told,
        path,
        small=small,
        resume=resume,
        fresh=fresh,
        force=force,
        after=after,
        stop_on_hangup=stop_on_hangup,
        console=console(),
    )
    if not pipeline.is_first_process():
        return
    result = run_dir.read(Result)
    if as_json:
        print_json(result.to_json())
        return
    typer.echo(f"{outcome(result)} in {result.train_seconds:.0f} s of training\n{path}/model  {path}/report.html")
    prompts = told.compare.prompts
    for line in following(path, prompts[0] if prompts else "The", asked.commands, run_dir.find(DataAccount)):
        typer.echo(line)


def _detach(path: Path, more: list[str]) -> None:
    """The same command in a session of its own; this one returns when the run has begun."""
    from tunesmith.run.detach import start_detached

    arguments = [*(argument for argument in sys.argv[1:] if argument != "--detach"), *more]
    pid = start_detached(path, arguments, lambda line: typer.echo(line, err=True))
    typer.echo(f"{path} pid {pid}")
    if not asked.quiet:
        typer.echo(f"Next: tunesmith attach {path}, tunesmith status {path}, tunesmith stop {path}", err=True)


def _together(group: Group, arguments: Sequence[str], *, stop_on_hangup: bool) -> int:
    """The same command in every process of a group; returns their exit code."""
    from tunesmith.launch.processes import run_together, tunesmith

    def say(line: str) -> None:
        typer.echo(line, err=True)

    return run_together(tunesmith(arguments), group, say, stop_on_hangup=stop_on_hangup)


def outcome(result: Result) -> str:
    """`held-out loss 5.588 -> 4.269, perplexity 267.3 -> 71.44`."""
    if result.eval_loss is None:
        return f"training loss {number(result.train_loss)}, nothing was held out to score it on"
    return (
        f"held-out loss {number(result.eval_loss_base)} -> {number(result.eval_loss)}, "
        f"perplexity {number(result.eval_perplexity_base)} -> {number(result.eval_perplexity)}"
    )
