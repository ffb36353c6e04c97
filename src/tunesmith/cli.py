"""The command line: arguments and printing, no logic. Everything heavy is imported inside a command."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from tunesmith import __version__
from tunesmith.errors import Stopped, TunesmithError
from tunesmith.machine.heap import use_huge_pages
from tunesmith.run.signals import StopRequest

app = typer.Typer(
    name="tunesmith",
    help="Fine-tune Hugging Face causal language models on your own text.\n\n"
    "A recipe (YAML) goes through: data -> plan -> train -> compare -> report. Start with `tunesmith demo`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_state: dict[str, Any] = {"quiet": False, "verbose": False, "debug": False}

RecipeArgument = Annotated[Path, typer.Argument(help="Recipe file (YAML).", metavar="RECIPE", show_default=False)]
RunArgument = Annotated[Path, typer.Argument(help="Run directory that `tunesmith train` wrote.", metavar="RUN")]
ModelArgument = Annotated[
    str,
    typer.Argument(
        help="A run directory, a model directory, a hub id, a GGUF file, or smollm2-135m (embedded).",
        metavar="RUN_OR_MODEL",
        show_default=False,
    ),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Override a recipe value: section.key=value. Repeatable.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]


def _version(value: bool) -> None:
    if value:
        typer.echo(f"tunesmith {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Errors and results only.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Also what the libraries log.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    _state.update(quiet=quiet, verbose=verbose, debug=debug)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Run directory.")] = Path("runs/demo"),
    fast: Annotated[bool, typer.Option("--fast", help="A shorter run: at most 2 minutes on 2 CPU cores.")] = False,
) -> None:
    """Tune the embedded model on the embedded shows: doctor, plan, data, train, compare, report.

    Example: tunesmith demo --out runs/demo
    """
    from tunesmith.demo import demo as run_demo

    report = run_demo(out, fast=fast, console=_console())
    typer.echo(f"{report}")


@app.command()
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
    as_json: JsonOption = False,
) -> None:
    """Train. An unfinished run in --out goes on where it stopped.

    Example: tunesmith train recipes/shows-smollm2.yaml --set train.epochs=2
    """
    from tunesmith.pipeline import is_first_process
    from tunesmith.pipeline import train as run_train

    run = run_train(
        recipe, out, overrides=set_ or (), small=small, resume=resume, fresh=fresh, force=force, console=_console()
    )
    if not is_first_process():
        return
    result = run.result
    if as_json:
        _print_json(result)
        return
    typer.echo(
        f"held-out loss {_number(result['eval_loss_base'])} -> {_number(result['eval_loss'])}, "
        f"perplexity {_number(result['eval_perplexity_base'])} -> {_number(result['eval_perplexity'])} "
        f"in {result['train_seconds']:.0f} s of training\n"
        f"{run.path}/model  {run.path}/report.html\n"
        f"Next: tunesmith compare {run.path}"
    )


@app.command()
def doctor(
    bench: Annotated[bool, typer.Option("--bench", help="Also measure this machine's arithmetic.")] = False,
    out: Annotated[Path, typer.Option(help="Where runs will be written.")] = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Check the machine: Python, torch, GPUs, memory, disk, packages, hub; each failed check with its fix.

    Example: tunesmith doctor --bench
    """
    from tunesmith.doctor import examine
    from tunesmith.show.doctor import print_examination

    report = examine(out, bench=bench)
    if as_json:
        _print_json(report.to_json())
    else:
        print_examination(report, _console())
    if not report.can_train:
        raise typer.Exit(2)


@app.command()
def plan(
    recipe: RecipeArgument,
    gpu: Annotated[str | None, typer.Option(help="Plan for this GPU: a100-80gb, l4, rtx-4090, ...")] = None,
    all_gpus: Annotated[bool, typer.Option("--all-gpus", help="A row for every known GPU.")] = False,
    price: Annotated[float | None, typer.Option(min=0.0, help="Price of the machine per hour.")] = None,
    calibrate: Annotated[bool, typer.Option("--calibrate", help="Run a few real steps here and refit.")] = False,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Forecast memory, time, disk and cost, without weights and without a GPU.

    Example: tunesmith plan recipes/netflix-gpt-neo-2.7b.yaml --all-gpus --price 2.5
    """
    from tunesmith.pipeline import plan as make_plan
    from tunesmith.recipe import Recipe
    from tunesmith.show.plan import print_report

    report = make_plan(Recipe.load(recipe, set_ or ()), gpu=gpu, all_gpus=all_gpus, price=price, calibrate=calibrate)
    if as_json:
        _print_json(report.to_json())
    else:
        print_report(report, _out())


@app.command()
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
    from tunesmith.audit.stage import audit_recipe
    from tunesmith.recipe import Recipe
    from tunesmith.show.audit import page, render
    from tunesmith.show.data import DataProgress

    with DataProgress(_console()) as progress:
        report = audit_recipe(Recipe.load(recipe, set_ or ()), progress=progress)
    if html is not None:
        html.write_text(page(report, str(recipe)), encoding="utf-8")
    if as_json:
        _print_json(report.to_json())
    else:
        _out().print(render(report))
    if report.blocks:
        raise typer.Exit(2)


@app.command()
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
    from tunesmith.pipeline import Run
    from tunesmith.run.directory import RunDir

    if len(runs) > 1:
        from tunesmith.run.table import compare_runs
        from tunesmith.show.runs import print_runs

        table = compare_runs(runs)
        if as_json:
            _print_json(table.to_json())
        else:
            print_runs(table, _out())
        return
    if blind:
        from tunesmith.compare.blind import run_blind_test

        run_blind_test(RunDir.open(runs[0]), _out())
        return
    run = Run(runs[0])
    result = run.compare(prompt)
    page = run.report()
    if as_json:
        _print_json(result)
        return
    from tunesmith.show.summary import print_summary

    print_summary(run.dir, _out())
    typer.echo(str(page))


@app.command("runs")
def list_runs(
    folder: Annotated[Path, typer.Argument(help="Folder that holds runs.")] = Path("runs"), as_json: JsonOption = False
) -> None:
    """List the runs in a folder with their metrics.

    Example: tunesmith runs runs
    """
    from tunesmith.run.table import list_runs as find_runs
    from tunesmith.show.runs import print_runs

    table = find_runs(folder)
    if as_json:
        _print_json(table.to_json())
    else:
        print_runs(table, _out())


@app.command()
def generate(
    model: ModelArgument,
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", "-p", help="Text to continue; without it, from nothing. Repeatable.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 80,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token every time.")] = 0.8,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0)] = 1.0,
    num_samples: Annotated[int, typer.Option("-n", "--num-samples", min=1, help="Samples per prompt.")] = 1,
    seed: Annotated[int, typer.Option(min=0)] = 7,
    as_json: JsonOption = False,
) -> None:
    """Write text.

    Example: tunesmith generate runs/shows-smollm2 --prompt "One fine morning" -n 3
    """
    from tunesmith.pipeline import generate as write

    prompts = [text for text in (prompt or [""]) for _ in range(num_samples)]
    texts = write(model, prompts, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
    if as_json:
        _print_json([{"prompt": t.prompt, "text": t.text, "num_tokens": t.num_tokens, "ended": t.ended} for t in texts])
        return
    for text in texts:
        typer.echo(f"{text.prompt}{text.text}\n")


@app.command("eval")
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
        from tunesmith.pipeline import evaluate_file

        scores = evaluate_file(model, str(data), text=text, max_length=max_length)
    if as_json:
        _print_json(scores)
        return
    for name, value in scores.items():
        typer.echo(f"{name:16} {_number(value)}")


@app.command()
def report(run: RunArgument) -> None:
    """Write RUN/report.html: one file that works offline.

    Example: tunesmith report runs/shows-smollm2
    """
    from tunesmith.report import write_report
    from tunesmith.run.directory import RunDir

    typer.echo(str(write_report(RunDir.open(run))))


def _console() -> Any:
    from rich.console import Console

    return Console(stderr=True, quiet=bool(_state["quiet"]))


def _out() -> Any:
    from rich.console import Console

    return Console()


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _print_json(value: Any) -> None:
    from tunesmith.disk import finite

    typer.echo(json.dumps(finite(value), indent=2, ensure_ascii=False))


def _quiet_libraries() -> None:
    """Libraries log and warn to standard error; users see that with -v only."""
    import logging
    import os
    import warnings

    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    if "-v" in sys.argv or "--verbose" in sys.argv or "--debug" in sys.argv:
        return
    warnings.filterwarnings("ignore")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.disable(logging.WARNING)


def _complain(message: str) -> None:
    from tunesmith.redact import redact

    typer.echo(redact(message), err=True)


def main() -> NoReturn:
    """Run the command line and exit: 0 done, 1 a bug, 2 the user can fix it, 75 stopped and resumable."""
    _quiet_libraries()
    use_huge_pages()
    try:
        with StopRequest(shlex.join(["tunesmith", *sys.argv[1:]])) as stop, stop.at_once():
            app()
    except (TunesmithError, Stopped) as error:
        if _state["debug"]:
            raise
        _complain(str(error))
        sys.exit(error.exit_code)
    except Exception:
        import traceback

        _complain(traceback.format_exc())
        _complain(f"This is a bug in tunesmith {__version__}; please report it with the lines above.")
        sys.exit(1)
    sys.exit(0)
