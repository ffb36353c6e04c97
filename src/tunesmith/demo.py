"""The whole story on the embedded model and data, for a first look: nothing is downloaded, nothing is configured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.models.find import EMBEDDED
from tunesmith.recipe import Recipe

if TYPE_CHECKING:
    from rich.console import Console

SHOWS = Path(__file__).parent / "assets" / "shows.csv"


def demo_recipe(*, fast: bool = False) -> Recipe:
    """The embedded model on 750 invented show descriptions; `fast` trains on fewer rows and compares fewer samples."""
    data: dict[str, Any] = {"path": str(SHOWS), "text": "description", "slice": "genre", "eval_fraction": 0.2}
    compare: dict[str, Any] = {"num_samples": 64}
    if fast:
        data["max_rows"], compare = 320, {"num_samples": 16, "max_new_tokens": 60}
    return Recipe(model={"name": EMBEDDED}, data=data, compare=compare, save={"keep": 1})


def demo(out: Path, *, fast: bool, console: Console) -> Path:
    """Doctor, plan, data, train, compare, report. Returns the path of the report.

    Raises TunesmithError as each stage does. A demo that was stopped goes on where it was.
    """
    from tunesmith import pipeline
    from tunesmith.show.doing import LOADING, Doing

    with Doing(console) as doing:
        doing(LOADING)
        from tunesmith.api import Run
        from tunesmith.audit.stage import audit
        from tunesmith.doctor import examine
        from tunesmith.plan import plan
        from tunesmith.show.audit import render
        from tunesmith.show.doctor import print_examination
        from tunesmith.show.plan import print_report
        from tunesmith.show.summary import print_summary

    recipe, path = pipeline.recipe_and_path(demo_recipe(fast=fast), out)
    console.rule("doctor: is this machine fit?")
    print_examination(examine(path.parent), console)
    console.rule("plan: what will it cost?")
    with Doing(console) as doing:
        made = pipeline.prepare_inputs(recipe, doing, small=False)
        doing("planning")
        report = plan(recipe, data=made.data, out=path)
    print_report(report, console)
    console.rule("data: what does the model see?")
    audited = audit(made.data, made.tokenizer, recipe.data, made.data.account.max_length)
    console.print(render(audited))
    console.rule("train")
    planned = report.plan if report.quotes[0].found.fit != "no" else None
    made = replace(made, audited=audited, plan=planned)
    run = Run(pipeline.train(recipe, path, prepared=made, console=console).path)
    console.rule("compare: what changed?")
    run.compare(console=console)
    page = run.report()
    print_summary(run.dir, console)
    return page
