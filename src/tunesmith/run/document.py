"""docs/run-directory.md, made from the classes of artefacts/: `python -m tunesmith.run.document > that file`.

What a field means is the docstring below it, which Python itself does not keep: it is read from the source.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from tunesmith.run.artefacts import (
    CheckpointInfo,
    Comparison,
    DataAccount,
    Export,
    Manifest,
    MetricsLine,
    Plan,
    Result,
    SamplesLine,
    Status,
    Vote,
)

HEAD = """# The run directory

Everything that a run writes lies in one directory. It may be moved or renamed, and then resumes, compares and serves as
before. This page is made from the classes in `src/tunesmith/run/artefacts/`:
`python -m tunesmith.run.document > docs/run-directory.md`.

| file | holds |
|---|---|
| recipe.yaml | the resolved recipe |
| [plan.json](#planjson) | every decided value with its reason; what was predicted and, after the run, measured |
| [data.json](#datajson) | what was read, what became of every row, fingerprints, what the audit found |
| [metrics.jsonl](#metricsjsonl) | a line a logged step and a line an evaluation |
| [samples.jsonl](#samplesjsonl) | a line an evaluation: what the model in training wrote (eval.samples) |
| [result.json](#resultjson) | final metrics |
| [compare.json](#comparejson) | what base and tuned wrote, and every score |
| [votes.jsonl](#votesjsonl) | choices of blind tests in the playground |
| [status.json](#statusjson) | where the run stands; kept as its last word |
| checkpoints/step-N/ | what it takes to go on, with [MANIFEST.json](#manifestjson) |
| checkpoints/best-N.safetensors | the best weights while it runs (sharded: a folder); a checkpoint links to them |
| model/ | the tuned model or its adapter, tokenizer, model card |
| export/NAME/ | what was exported, each with [EXPORT.json](#exportjson) |
| report.html, log.txt | one page to read; what was said |
| trackers/ | what trackers of train.report_to keep here |
| lock | while it runs: who writes |

JSON files are replaced whole, so a reader sees the old one or the new one. Each holds the version of its format. A file
of an older version is read as if it held null, or nothing, where it lacks a field; unknown fields are ignored; a newer
version than the program knows is refused. Numbers that are not finite are written as null. Directories are private
(0700), files too (0600).
"""
SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("plan.json", Plan),
    ("data.json", DataAccount),
    ("metrics.jsonl", MetricsLine),
    ("samples.jsonl", SamplesLine),
    ("result.json", Result),
    ("compare.json", Comparison),
    ("votes.jsonl", Vote),
    ("status.json", Status),
    ("EXPORT.json", Export),
    ("MANIFEST.json", Manifest),
    ("MANIFEST.json: info", CheckpointInfo),
)


def document() -> str:
    """The page as Markdown."""
    parts = [HEAD]
    shown: set[type[BaseModel]] = {record for _, record in SECTIONS}
    for title, record in SECTIONS:
        version = f" Version {record.VERSION}." if hasattr(record, "VERSION") else ""
        parts.append(f"## {title}\n\n{_text(record.__doc__).removeprefix(f'{title}: ')}{version}\n\n{_table(record)}")
        for part in _parts(record):
            if part not in shown:
                shown.add(part)
                parts.append(
                    f"### {part.__name__}\n\n{_text(part.__doc__)}\n\n{_table(part)}".replace("\n\n\n\n", "\n\n")
                )
    return "\n".join(parts)


def _table(record: type[BaseModel]) -> str:
    meanings = _meanings(record)
    rows = [
        f"| {name} | {_type(field.annotation)} | {meanings.get(name, '')} |"
        for name, field in record.model_fields.items()
    ]
    return "\n".join(["| field | type | meaning |", "|---|---|---|", *rows, ""])


def _meanings(record: type[BaseModel]) -> dict[str, str]:
    """The docstring below each field of a record and of those that it is made from."""
    found: dict[str, str] = {}
    for kind in reversed(record.__mro__):
        if issubclass(kind, BaseModel) and kind is not BaseModel:
            found |= _in_source(kind.__module__).get(kind.__name__, {})
    return found


@functools.cache
def _in_source(module: str) -> dict[str, dict[str, str]]:
    """{class: {field: docstring}}."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: dict(_below_fields(node)) for node in tree.body if isinstance(node, ast.ClassDef)}


def _below_fields(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for field, below in zip(node.body, node.body[1:], strict=False):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str):
            yield field.target.id, _text(below.value.value)


def _parts(record: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """Every record that stands in another one, each before what stands in it."""
    for field in record.model_fields.values():
        for part in _records(field.annotation):
            yield part
            yield from _parts(part)


def _records(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _records(inner)


def _type(annotation: Any) -> str:
    """In the words of JSON: `array of string`, `number or null`, `"full", "lora" or "qlora"`."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{_TITLES.get(annotation, annotation.__name__.lower())})"
    if origin is Literal:
        return _listed([f'"{choice}"' for choice in inner])
    if origin in (Union, types.UnionType):
        return _listed([_type(part) for part in inner])
    if origin is dict:
        return "object" if inner[1] is Any else f"object of {_type(inner[1])}"
    if origin is tuple:
        return f"array of {_type(inner[0])}" if inner[-1] is ... else f"[{', '.join(map(_type, inner))}]"
    return _SIMPLE[annotation]


_TITLES = {record: title.lower().replace(".", "") for title, record in SECTIONS}
_SIMPLE: dict[Any, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    types.NoneType: "null",
}


def _listed(names: list[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


def _text(docstring: str | None) -> str:
    return " ".join(inspect.cleandoc(docstring or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(document())
