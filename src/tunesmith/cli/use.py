"""Commands that judge a run or a model: compare, eval and report."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli.options import JsonOption, ModelArgument, RunArgument, console, number, output, print_json
from tunesmith.errors import DataError


def compare(
    runs: Annotated[list[Path], typer.Argument(help="A run, or several to set side by side.", metavar="RUN...")],
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", "-p", help="Instead of the recipe's. Repeatable.")
    ] = None,
    blind: Annotated[
        bool, typer.Option("--blind", help="Choose between A and B without knowing which is tuned.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Base against tuned: same prompts, seeds and decoding; scores; writes RUN/compare.json and RUN/report.html.

    Example: tunesmith compare runs/shows-smollm2 --prompt "One fine morning"
    """
    from tunesmith.api import Run
    from tunesmith.run.directory import RunDir

    if len(runs) > 1:
        from tunesmith.run.table import compare_runs
        from tunesmith.show.runs import print_runs

        table = compare_runs(runs)
        if as_json:
            print_json(table.to_json())
        else:
            print_runs(table, output())
        return
    if blind:
        from tunesmith.compare.blind import run_blind_test

        run_blind_test(RunDir.open(runs[0]), output())
        return
    run = Run(runs[0])
    result = run.compare(prompt, console=console())
    page = run.report()
    if as_json:
        print_json(result)
        return
    from tunesmith.show.summary import print_summary

    print_summary(run.dir, output())
    typer.echo(str(page))


def evaluate(
    model: ModelArgument,
    data: Annotated[str | None, typer.Option("--data", help="File to score; every row is used.")] = None,
    text: Annotated[str | None, typer.Option(help="Column that holds the text.")] = None,
    max_length: Annotated[int, typer.Option(min=2, help="Longest document in tokens.")] = 1024,
    tasks: Annotated[str | None, typer.Option(help="Public tasks of lm-eval (an extra), separated by commas.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Documents of each task.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Score a model on a file: loss, perplexity, bits per byte, token accuracy; or on public tasks.

    Example: tunesmith eval smollm2-135m --data held-out.csv --text description
    """
    if (data is None) == (tasks is None):
        raise typer.BadParameter("give --data FILE or --tasks NAMES")
    if tasks is not None:
        from tunesmith.compare.lm_eval import evaluate_tasks

        scores: dict[str, Any] = evaluate_tasks(model, tasks.split(","), limit=limit)
    else:
        from tunesmith.api import evaluate_file

        try:
            scores = evaluate_file(model, str(data), text=text, max_length=max_length, console=console())
        except DataError as error:
            raise DataError(_as_options(str(error))) from None
    if as_json:
        print_json(scores)
        return
    for name, value in scores.items():
        typer.echo(f"{name:16} {number(value)}")


def _as_options(message: str) -> str:
    """A message that speaks of recipe keys, in the options of this command."""
    for key, option in (("data.text", "--text"), ("data.path", "--data"), ("train.max_length", "--max-length")):
        message = re.sub(rf"\bSet {key}:", f"Give {option}", message)
        message = re.sub(rf"\b{key}:", f"{option}:", message)
        message = re.sub(rf"\b{key}\b", option, message)
    return message


def report(run: RunArgument) -> None:
    """Write RUN/report.html: one file that works offline.

    Example: tunesmith report runs/shows-smollm2
    """
    from tunesmith.report import write_report
    from tunesmith.run.directory import RunDir

    typer.echo(str(write_report(RunDir.open(run))))
