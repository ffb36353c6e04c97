"""Commands that look before anything is trained: doctor, plan and data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.options import JsonOption, RecipeArgument, SetOption, console, output, print_json


def doctor(
    bench: Annotated[bool, typer.Option("--bench", help="Also measure this machine's arithmetic.")] = False,
    out: Annotated[Path, typer.Option(help="Where runs will be written.")] = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Check the machine: Python, torch, GPUs, memory, disk, packages, hub; each failed check with its fix.

    Example: tunesmith doctor --bench
    """
    from tunesmith.show.doing import Doing

    with Doing(console()) as doing:
        doing("examining this machine")
        from tunesmith.doctor import examine
        from tunesmith.show.doctor import print_examination

        report = examine(out, bench=bench)
    if as_json:
        print_json(report.to_json())
    else:
        print_examination(report, console())
    if not report.can_train:
        raise typer.Exit(2)


def plan(
    recipe: RecipeArgument,
    gpu: Annotated[str | None, typer.Option(help="Plan for this GPU: a100-80gb, l4, rtx-4090, ...")] = None,
    all_gpus: Annotated[bool, typer.Option("--all-gpus", help="A row for every known GPU.")] = False,
    price: Annotated[
        list[str] | None,
        typer.Option(help="Per hour: X of this machine or of --gpu, or NAME=X of a GPU. May be repeated."),
    ] = None,
    procs: Annotated[
        int | None,
        typer.Option(
            help="GPUs that train together, in each machine; without --nodes, more than 8 fill machines of 8."
        ),
    ] = None,
    nodes: Annotated[int | None, typer.Option(help="Machines, each with --procs GPUs.")] = None,
    interconnect: Annotated[
        list[str] | None,
        typer.Option(
            help="What joins GPUs in a machine (nvlink-4, pcie-4) or machines (infiniband-ndr, ethernet-100), where "
            "it is not the usual. May be repeated."
        ),
    ] = None,
    calibrate: Annotated[bool, typer.Option("--calibrate", help="Run a few real steps here and refit.")] = False,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Forecast memory, time, disk and cost, without weights and without a GPU.

    Example: tunesmith plan recipes/netflix-gpt-neo-2.7b.yaml --all-gpus --price l4=0.8 --price a100-80gb=1.9

    Several GPUs: tunesmith plan recipes/netflix-gpt-neo-2.7b.yaml --gpu l4 --procs 4 --interconnect pcie-4
    """
    from tunesmith.api import plan as make_plan
    from tunesmith.recipe import Recipe

    report = make_plan(
        Recipe.load(recipe, set_ or ()),
        gpu=gpu,
        all_gpus=all_gpus,
        price=price,
        procs=procs,
        nodes=nodes,
        interconnect=interconnect or (),
        calibrate=calibrate,
        console=console(),
    )
    if as_json:
        print_json(report.to_json())
        return
    from tunesmith.show.plan import print_report

    print_report(report, output())


def gpus(as_json: JsonOption = False) -> None:
    """List the GPUs that a plan knows: what they hold, how fast they are, a typical price.

    Example: tunesmith gpus
    """
    from tunesmith.machine.gpus import gpus as known
    from tunesmith.machine.prices import typical_prices

    rows, prices = known(), typical_prices()
    if as_json:
        print_json(
            {
                "prices": {"date": prices.date, "currency": prices.currency},
                "gpus": [{**gpu.to_json(), **prices.to_json(gpu.key)} for gpu in rows],
            }
        )
        return
    from tunesmith.show.plan import print_gpus

    print_gpus(rows, prices, output())


def data(
    recipe: RecipeArgument,
    set_: SetOption = None,
    html: Annotated[
        Path | None, typer.Option(help="Also write the examples as an HTML page.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Audit the data: what the model will really see, what is cut, dropped or doubled.

    Example: tunesmith data recipes/shows-smollm2.yaml
    """
    from tunesmith.recipe import Recipe
    from tunesmith.show.doing import LOADING, Doing

    asked = Recipe.load(recipe, set_ or ())  # before what is heavy: a wrong recipe is told at once
    with Doing(console(), "data") as doing:
        doing("looking at the files")
        from tunesmith.data.rows.columns import check_columns

        check_columns(asked.data)
        doing(LOADING)
        from tunesmith.audit.stage import audit_recipe
        from tunesmith.show.audit import page, render

        report = audit_recipe(asked, progress=doing)
    if html is not None:
        html.write_text(page(report, str(recipe)), encoding="utf-8")
    if as_json:
        print_json(report.to_json())
    else:
        output().print(render(report))
    if report.blocks:
        raise typer.Exit(2)
