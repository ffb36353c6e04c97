"""Commands that run a recipe many times or in many places: sweep, launch."""

from __future__ import annotations

import sys
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
    data_curve: Annotated[
        bool,
        typer.Option("--data-curve", help="Train on shares of the rows, and forecast the loss with more of them."),
    ] = False,
    shares: Annotated[
        str | None, typer.Option(help="Of --data-curve, increasing; default 0.05,0.1,0.2.", metavar="S,S,S")
    ] = None,
    bigger: Annotated[
        str | None, typer.Option(help="Of --data-curve: also train this model, at the smallest share.", metavar="MODEL")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Search over recipe values; the same command goes on where it stopped. Writes FOLDER/best.yaml and trials.json.

    With --data-curve: what more rows or a bigger model would bring. Writes FOLDER/curve.json and curve.html.

    Example: tunesmith sweep recipes/shows-smollm2.yaml --over train.learning_rate=1e-5..1e-3:log --trials 12

    Example: tunesmith sweep recipes/netflix-smollm2.yaml --data-curve --shares 0.05,0.1,0.2
    """
    from tunesmith.recipe import Recipe
    from tunesmith.sweep.stage import read_budget
    from tunesmith.sweep.stage import sweep as search
    from tunesmith.sweep.workers import choose_devices, helping

    if data_curve or shares or bigger:
        searches = {"--over": over, "--trials": trials, "--budget": budget, "--lr-find": lr_find}
        _draw_curve(
            Recipe.load(recipe, set_ or ()),
            out or Path("runs") / f"{recipe.stem}-curve",
            shares=shares,
            bigger=bigger,
            others=[name for name, given in searches.items() if given] + ["--workers"] * (workers > 1),
            is_asked=data_curve,
            as_json=as_json,
        )
        return
    asked, limit = Recipe.load(recipe, set_ or ()), read_budget(trials, budget)
    folder = out or Path("runs") / f"{recipe.stem}-sweep"
    prepared = _prepared(asked)
    if lr_find:
        _find_rate(asked, prepared, as_json=as_json)
        return
    devices = choose_devices(workers)
    with helping(devices, [argument for argument in sys.argv[1:] if argument != "--json"]) as start:
        study = search(asked, folder, prepared, over=over or (), budget=limit, joins=joins, opened=start, say=_say)
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


def _say(line: str) -> None:
    console().print(line, highlight=False, markup=False, soft_wrap=True)


def _prepared(recipe: Recipe) -> Prepared:
    from tunesmith.pipeline import check_inputs, prepare_inputs
    from tunesmith.show.doing import Doing

    with Doing(console()) as doing:
        return prepare_inputs(recipe, doing, small=False, source=check_inputs(recipe, doing))


def _draw_curve(
    recipe: Recipe,
    folder: Path,
    *,
    shares: str | None,
    bigger: str | None,
    others: list[str],
    is_asked: bool,
    as_json: bool,
) -> None:
    from tunesmith.errors import SweepError
    from tunesmith.sweep.curve.asked import DEFAULT_SHARES, Asked, read_shares

    if not is_asked:
        raise SweepError("sweep: --shares and --bigger are of --data-curve. Add it.")
    if others:
        raise SweepError(f"sweep: {others[0]} searches, and --data-curve does not. Give one of them.")
    asked = Asked(DEFAULT_SHARES if shares is None else read_shares(shares), bigger)
    from tunesmith.sweep.curve.outcome import PAGE
    from tunesmith.sweep.curve.stage import draw_curve
    from tunesmith.sweep.curve.table import print_curve

    curve = draw_curve(recipe, folder, _prepared(recipe), asked, prepare=_prepared, say=_say)
    if as_json:
        print_json(curve.to_json())
        return
    print_curve(output(), curve)
    typer.echo(f"{folder / curve.FILE}  {folder / PAGE}")


def _find_rate(recipe: Recipe, prepared: Prepared, *, as_json: bool) -> None:
    from tunesmith.run.signals import StopRequest
    from tunesmith.show.progress import Progress
    from tunesmith.sweep.lr_find import find_rate
    from tunesmith.sweep.table import rate_lines

    with StopRequest("the same command") as stop, Progress(console()) as progress:
        found = find_rate(recipe, prepared, stop, progress)
    if as_json:
        print_json(
            {"suggestion": found.suggestion, "rates": found.rates, "losses": found.losses, "smooth": found.smooth}
        )
        return
    for line in rate_lines(found):
        typer.echo(line)


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
