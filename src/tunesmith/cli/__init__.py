"""The command line: arguments and printing, no logic. Everything heavy is imported inside a command.

begin.py     init, schema
train.py     demo, train
look.py      doctor, plan, gpus, data
speak.py     generate, chat, serve
use.py       compare, eval, report
leave.py     export
follow.py    runs, watch, status, attach, stop
many.py      sweep, launch
options.py   what several commands share; document.py: docs/commands.md
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer

from tunesmith import __version__
from tunesmith.cli import begin, follow, leave, look, many, speak, train, use
from tunesmith.cli.options import asked
from tunesmith.errors import Stopped, TunesmithError
from tunesmith.machine.heap import use_huge_pages
from tunesmith.machine.threads import choose_waiting
from tunesmith.run.signals import StopRequest

app = typer.Typer(
    name="tunesmith",
    help="Fine-tune Hugging Face causal language models on your own text.\n\n"
    "A recipe (YAML) goes through: data -> plan -> train -> compare -> report. Start with `tunesmith demo`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

COMMANDS: dict[str, Callable[..., None]] = {  # in the order of --help
    "demo": train.demo,
    "init": begin.init,
    "train": train.train,
    "doctor": look.doctor,
    "plan": look.plan,
    "gpus": look.gpus,
    "data": look.data,
    "compare": use.compare,
    "runs": follow.runs,
    "watch": follow.watch,
    "status": follow.status,
    "attach": follow.attach,
    "stop": follow.stop,
    "generate": speak.generate,
    "chat": speak.chat,
    "serve": speak.serve,
    "eval": use.evaluate,
    "report": use.report,
    "export": leave.export,
    "sweep": many.sweep,
    "launch": many.launch,
    "schema": begin.schema,
}
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"tunesmith {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Errors and results only.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Also what the libraries log.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    _: Annotated[bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)] = False,
) -> None:
    asked.quiet, asked.verbose, asked.debug, asked.commands = quiet, verbose, debug, tuple(COMMANDS)


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
    choose_waiting()
    try:
        with StopRequest(shlex.join(["tunesmith", *sys.argv[1:]])) as stop, stop.at_once():
            app()
    except (TunesmithError, Stopped) as error:
        if asked.debug:
            raise
        _complain(str(error))
        sys.exit(error.exit_code)
    except Exception:
        import traceback

        _complain(traceback.format_exc())
        _complain(f"This is a bug in tunesmith {__version__}; please report it with the lines above.")
        sys.exit(1)
    sys.exit(0)
