"""The command that takes a model out of a run: export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from tunesmith.cli.options import JsonOption, RunArgument, console, print_json
from tunesmith.errors import RunError
from tunesmith.run.artefacts import ExportFormat, Quant

FORMATS = ("safetensors", "gguf", "hub", "onnx")
QUANTS = ("f32", "f16", "bf16", "q8_0", "q5_1", "q4_0", "q4_k_m")


def export(
    run: RunArgument,
    format: Annotated[str, typer.Option("--format", help=" | ".join(FORMATS), metavar="FORMAT", show_default=False)],
    quant: Annotated[
        str | None,
        typer.Option(
            help=f"Type of the weights: {' | '.join(QUANTS)}; safetensors: f32, f16 or bf16.",
            metavar="QUANT",
            show_default="f16 in GGUF, otherwise that of the base model's files",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an export or a repository; take the checkpoint of an unended run.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder to write.", show_default="RUN/export/NAME")] = None,
    repo: Annotated[str | None, typer.Option(help="For --format hub: where to, private.", metavar="OWNER/NAME")] = None,
    public: Annotated[bool, typer.Option("--public", help="For --format hub: for all to see.")] = False,
    adapter: Annotated[bool, typer.Option("--adapter", help="GGUF of the adapter alone.")] = False,
    fold: Annotated[
        bool, typer.Option("--fold", help="Safetensors of GPT-Neo and GPT-J as GPT-2 and Phi, with equal outputs.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Merge, write, load again and compare: for transformers, vLLM, llama.cpp, Ollama, onnxruntime or the hub.

    Prints how it did there and, last, where it lies. What differs from the tuned model is not written (exit 2).

    Example: tunesmith export runs/shows-smollm2 --format gguf --quant q8_0
    """
    for given, known, option in ((format, FORMATS, "--format"), (quant, QUANTS, "--quant")):
        if given is not None and given not in known:
            raise RunError(f"export {option} {given}: expected one of {', '.join(known)}.")
    from tunesmith.api import Run
    from tunesmith.run.directory import RunDir

    done = Run(RunDir.open(run).path).export(
        cast(ExportFormat, format),
        quant=cast("Quant | None", quant),
        out=out,
        repo=repo,
        force=force,
        public=public,
        adapter=adapter,
        fold=fold,
        console=console(),
    )
    if as_json:
        print_json({**done.record.to_json(), "path": str(done.path)})
        return
    from tunesmith.show.export import export_lines

    for line in export_lines(done.record):
        typer.echo(line)
    typer.echo(done.address)
