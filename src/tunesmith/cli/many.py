"""Commands that run a recipe many times or in many places: launch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.options import RecipeArgument, SetOption


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
