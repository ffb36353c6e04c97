"""Commands that run a recipe many times or in many places: sweep, launch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli.options import JsonOption, RecipeArgument, SetOption, console, output, print_json

if TYPE_CHECKING:
    from tunesmith.pipeline import Prepared
    from tunesmith.recipe import Recipe


def sweep(
    recipe: RecipeArgument,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the sweep; default runs/<name of the recipe>-sweep.")
    ] = None,
    set_: SetOption = None,
    over: Annotated[
        list[str] | None,
        typer.Option(help="What is searched: key=LOW..HIGH[:log] or key=A,B. Repeatable; default rate and step size."),
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="End after so many trials; default 20.")] = None,
    budget: Annotated[str | None, typer.Option(help="End after this time: 30m, 2h.", metavar="TIME")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Trials at a time, each on a GPU of its own.")] = 1,
    joins: Annotated[bool, typer.Option("--joins", hidden=True)] = False,
    lr_find: Annotated[
        bool, typer.Option("--lr-find", help="Only find a learning rate, by one short run in which it grows.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Search over recipe values; the same command goes on where it stopped. Writes FOLDER/best.yaml and trials.json.

    Example: tunesmith sweep recipes/shows-smollm2.yaml --over train.learning_rate=1e-5..1e-3:log --trials 12
    """
    from tunesmith.recipe import Recipe
    from tunesmith.sweep.stage import read_budget
    from tunesmith.sweep.stage import sweep as search

    asked, limit = Recipe.load(recipe, set_ or ()), read_budget(trials, budget)
    folder = out or Path("runs") / f"{recipe.stem}-sweep"
    prepared = _prepared(asked)
    if lr_find:
        _find_rate(asked, prepared, as_json=as_json)
        return
    with _helping(workers):
        study = search(asked, folder, prepared, over=over or (), budget=limit, joins=joins, say=console().print)
    if joins:
        return
    from tunesmith.sweep.outcome import ALL, BEST, PAGE
    from tunesmith.sweep.table import print_trials

    if as_json:
        typer.echo((folder / ALL).read_text(encoding="utf-8"), nl=False)
        return
    print_trials(output(), study)
    typer.echo(f"{folder / BEST}  {folder / PAGE}")
    typer.echo(f"Next: tunesmith train {folder / BEST} --out runs/{recipe.stem}-best")


def _prepared(recipe: Recipe) -> Prepared:
    from tunesmith.pipeline import check_inputs, prepare_inputs
    from tunesmith.show.doing import Doing

    with Doing(console()) as doing:
        return prepare_inputs(recipe, doing, small=False, source=check_inputs(recipe, doing))


def _find_rate(recipe: Recipe, prepared: Prepared, *, as_json: bool) -> None:
    from tunesmith.run.signals import StopRequest
    from tunesmith.show.progress import Progress
    from tunesmith.sweep.lr_find import find_rate

    with StopRequest("the same command") as stop, Progress(console()) as progress:
        found = find_rate(recipe, prepared, stop, progress)
    if as_json:
        print_json({"suggestion": found.suggestion, "rates": found.rates, "losses": found.losses})
        return
    for rate, loss in list(zip(found.rates, found.smooth, strict=True))[::4]:
        typer.echo(f"rate {rate:8.1e}  loss {loss:.3f}")
    typer.echo(f"train.learning_rate: {found.suggestion:g}   (a tenth of the rate with the lowest loss)")


@contextmanager
def _helping(workers: int) -> Iterator[None]:
    """The same sweep in other processes, each on a GPU of its own, until this one has ended."""
    others = []
    for number in range(1, workers):
        arguments = [argument for argument in sys.argv[1:] if argument != "--json"]
        others.append(
            subprocess.Popen(
                [sys.executable, "-m", "tunesmith", *arguments, "--workers", "1", "--joins"],
                env={**os.environ, "CUDA_VISIBLE_DEVICES": str(number)},
                stdout=subprocess.DEVNULL,
            )
        )
    try:
        yield
    finally:
        for process in others:
            process.wait()


def launch(
    recipe: RecipeArgument,
    engine: Annotated[str, typer.Option(help="torchrun, slurm, kubernetes, ray or skypilot.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(help="Run directory, on a folder that all machines see; default runs/<name of the recipe>."),
    ] = None,
    set_: SetOption = None,
    nodes: Annotated[int, typer.Option(help="Machines.")] = 1,
    procs: Annotated[int, typer.Option(help="Training processes on each, one a GPU.")] = 1,
    gpu: Annotated[str | None, typer.Option(help="GPU of each process, as the engine calls it.")] = None,
    time: Annotated[
        str | None, typer.Option(help="Wall time, hours:minutes:seconds. SLURM: saved before, and queued again.")
    ] = None,
    partition: Annotated[str | None, typer.Option(help="Of SLURM.")] = None,
    image: Annotated[str | None, typer.Option(help="Kubernetes: a container image that has tunesmith.")] = None,
    volume: Annotated[
        str | None,
        typer.Option(help="Kubernetes: claim with recipe, data and run. SkyPilot: bucket for the run (s3://...)."),
    ] = None,
    spot: Annotated[bool, typer.Option("--spot", help="SkyPilot: machines that may be taken away.")] = False,
    print_: Annotated[bool, typer.Option("--print", help="Print what would be started, and start nothing.")] = False,
) -> None:
    """Run a recipe on many processes or machines, by an engine that exists.

    Example: tunesmith launch recipes/shows-smollm2.yaml --engine slurm --nodes 2 --procs 8 --time 12:00:00 --print
    """
    from tunesmith import pipeline
    from tunesmith.launch.engines import engine_of
    from tunesmith.launch.job import Job

    chosen = engine_of(engine)
    _, path = pipeline.recipe_and_path(recipe, out, set_ or ())
    job = Job(
        recipe=recipe,
        out=path,
        num_nodes=nodes,
        num_processes=procs,
        overrides=tuple(set_ or ()),
        wall_time=time,
        gpu=gpu,
        image=image,
        volume=volume,
        partition=partition,
        spot=spot,
    )
    text = chosen.text(job)
    if print_:
        typer.echo(text, nl=False)
        return
    sys.exit(chosen.start(job, text, lambda line: typer.echo(line, err=True)))
