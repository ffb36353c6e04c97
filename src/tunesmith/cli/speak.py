"""Commands that let a model write: generate, chat, serve."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.options import JsonOption, ModelArgument, console, output, print_json
from tunesmith.errors import TunesmithError


def _as_compared(otherwise: str) -> str:
    return f"as the run is compared; {otherwise} for a model"


MaxNewTokens = Annotated[
    int | None, typer.Option(min=1, help="Longest text, in tokens.", show_default=_as_compared("80"))
]
Temperature = Annotated[
    float | None,
    typer.Option(min=0.0, help="0 takes the likeliest token every time.", show_default=_as_compared("0.8")),
]
TopP = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.0,
        help="Draw from the likeliest tokens that come to this probability.",
        show_default=_as_compared("1.0"),
    ),
]
Seed = Annotated[
    int | None, typer.Option(min=0, help="The same seed writes the same text.", show_default=_as_compared("7"))
]
Base = Annotated[bool, typer.Option("--base", help="The model that it was tuned from.")]


def generate(
    model: ModelArgument,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt", "-p", help="Text to continue; without it, from nothing; - reads standard input. Repeatable."
        ),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option("--file", help="Prompts, one a line, or .jsonl with a prompt in each; - is standard input."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where --file's texts go, a JSON line each; goes on where it stopped.")
    ] = None,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    num_samples: Annotated[int, typer.Option("-n", "--num-samples", min=1, help="Samples per prompt.")] = 1,
    seed: Seed = None,
    base: Base = False,
    raw: Annotated[bool, typer.Option("--raw", help="Prompts are text to continue, also for a chat run.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write text. A run is decoded as its recipe's compare section says, where no option says otherwise.

    A run that was tuned on conversations is asked each prompt as a user's turn, in its chat template.

    Example: tunesmith generate runs/shows-smollm2 --prompt "One fine morning" -n 3
    """
    from tunesmith.api import Writer

    if file is not None and prompt:
        raise TunesmithError("--prompt and --file: give one of the two.")
    if out is not None and file is None:
        raise TunesmithError("--out: belongs to --file. Without it texts are written to standard output.")
    if file is not None:
        from tunesmith.generate.prompts import read_prompts

        asked = read_prompts(file)
    else:
        asked = [sys.stdin.read().removesuffix("\n") if text == "-" else text for text in prompt or [""]]
    asked = [text for text in asked for _ in range(num_samples)]
    writer = Writer(model, base=base, raw=raw).decoded(max_new_tokens, temperature, top_p, seed)
    if file is not None:
        writer.write_lines(asked, out, console=console())
    elif as_json:
        print_json([text.model_dump(include=_SHOWN) for text in writer.lines(asked, console=console())])
    else:
        from tunesmith.show.texts import show_texts

        show_texts(writer.streams(asked, console=console()), output())


_SHOWN = {"prompt", "text", "num_tokens", "ended"}


def chat(
    model: ModelArgument,
    system: Annotated[str | None, typer.Option("--system", help="What the model is told before all else.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Of one answer.")] = 512,
    temperature: Temperature = None,
    top_p: TopP = None,
    seed: Seed = None,
    base: Base = False,
) -> None:
    """Talk with a model in its chat template; one that has none continues what is typed. /help lists commands.

    Example: tunesmith chat runs/shows-smollm2
    """
    from tunesmith.api import Writer
    from tunesmith.show.talk import talk

    writer = Writer(model, base=base).decoded(max_new_tokens, temperature, top_p, seed)
    with writer.conversation(system, console=console()) as conversation:
        talk(conversation, output())


def serve(
    model: ModelArgument,
    host: Annotated[str, typer.Option(help="Address to listen at. Any but this machine's own needs a key.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            "--api-key-file", help="File that holds the key of the server.", show_default="$TUNESMITH_API_KEY, if set"
        ),
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="vllm, llama.cpp or transformers, from an environment of its own.")
    ] = None,
    print_only: Annotated[bool, typer.Option("--print", help="Print the command of --engine and end.")] = False,
) -> None:
    """Serve OpenAI's API, and a page at / where base and tuned write side by side.

    Models `tuned` and `base`, from one set of weights where the run trained an adapter. Prints the address when it
    answers; SIGTERM and Ctrl-C end it after what is being answered.

    Example: tunesmith serve runs/shows-smollm2 --port 8000
    """
    from tunesmith.api import serve as start
    from tunesmith.errors import Stopped

    if engine is not None:
        _serve_elsewhere(engine, model, host, port, api_key_file, print_only=print_only)
        return
    try:
        start(model, host=host, port=port, api_key_file=api_key_file, console=console(), ready=typer.echo)
    except Stopped:  # a server has no end of its own: being told to stop is it
        return


def _serve_elsewhere(
    engine: str, model: str, host: str, port: int, api_key_file: Path | None, *, print_only: bool
) -> None:
    from typing import get_args

    from tunesmith.errors import ServeError
    from tunesmith.serve.engines import Name, engine_command, start_engine

    known: dict[str, Name] = {name: name for name in get_args(Name)}
    if engine not in known:
        raise ServeError(f"--engine {engine}: not known. Expected {', '.join(known)}.")
    command = engine_command(known[engine], model, host, port, api_key_file)
    if print_only:
        typer.echo(command.shown)
        return
    typer.echo(command.shown, err=True)
    start_engine(known[engine], command)
