"""Commands that use a run or a model: compare, generate, eval and report."""

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


def _as_compared(otherwise: str) -> str:
    return f"as the run is compared; {otherwise} for a model"


def generate(
    model: ModelArgument,
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", "-p", help="Text to continue; without it, from nothing. Repeatable.")
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, show_default=_as_compared("80"))] = None,
    temperature: Annotated[
        float | None,
        typer.Option(min=0.0, help="0 takes the likeliest token every time.", show_default=_as_compared("0.8")),
    ] = None,
    top_p: Annotated[float | None, typer.Option(min=0.0, max=1.0, show_default=_as_compared("1.0"))] = None,
    num_samples: Annotated[int, typer.Option("-n", "--num-samples", min=1, help="Samples per prompt.")] = 1,
    seed: Annotated[int | None, typer.Option(min=0, show_default=_as_compared("7"))] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Prompts are text to continue, also for a chat run.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write text. A run is decoded as its recipe's compare section says, where no option says otherwise.

    A run that was tuned on conversations is asked each prompt as a user's turn, in its chat template.

    Example: tunesmith generate runs/shows-smollm2 --prompt "One fine morning" -n 3
    """
    from tunesmith.api import generate as write

    prompts = [text for text in (prompt or [""]) for _ in range(num_samples)]
    texts = write(
        model,
        prompts,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        raw=raw,
        console=console(),
    )
    if as_json:
        print_json([{"prompt": t.prompt, "text": t.text, "num_tokens": t.num_tokens, "ended": t.ended} for t in texts])
        return
    for text in texts:
        typer.echo(f"{text.prompt}\n\n{text.text}\n" if text.is_answer else f"{text.prompt}{text.text}\n")


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
