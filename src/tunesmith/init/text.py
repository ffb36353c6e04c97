"""The recipe as a file that a person reads: every line with its reason, other choices beside it as comments."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import yaml

from tunesmith.init.look import Looked
from tunesmith.init.suggest import Suggestion

_COMMENT_COLUMN = 36
HELD_OUT_ROWS = 25
"""Fewer say little of a loss."""
FEW_ROWS = 10 * HELD_OUT_ROWS
"""Below, a tenth of the rows is too few: more are held out."""


@dataclass(frozen=True)
class Line:
    """`key: value  # comment`; without a value the comment alone. is_other: as a comment, for another choice."""

    key: str
    value: object = None
    comment: str = ""
    is_other: bool = False


@dataclass
class Section:
    """A section of a recipe."""

    name: str
    lines: list[Line] = field(default_factory=list)


def write(head: Iterable[str], sections: Iterable[Section]) -> str:
    """The file. Sections without a value that counts are written as comments too."""
    parts = ["\n".join(f"# {line}".rstrip() for line in head)]
    for section in sections:
        lines = [text for line in section.lines for text in _lines(line)]
        silent = all(line.is_other or not line.key for line in section.lines)
        parts.append(
            "\n".join([f"{'# ' if silent else ''}{section.name}:", *(f"{_in(text, silent)}" for text in lines)])
        )
    return "\n\n".join(parts) + "\n"


def _in(text: str, silent: bool) -> str:
    return f"#   {text.removeprefix('# ')}" if silent else f"  {text}"


def _lines(line: Line) -> list[str]:
    comment = " ".join(line.comment.split())
    if not line.key:
        return [f"# {comment}"]
    mark = "# " * line.is_other
    values = line.value if isinstance(line.value, list) and len(line.value) > 1 else []
    text = f"{mark}{line.key}:" if values else f"{mark}{line.key}: {scalar(line.value)}"
    first = f"{text:<{_COMMENT_COLUMN}}  # {comment}" if comment else text
    return [first, *(f"{mark}  - {scalar(value)}" for value in values)]


def scalar(value: object) -> str:
    """A value on one line of YAML."""
    if isinstance(value, str) and (set(value) & set("{}[]#:\"'\\\n\t") or value.strip() != value):
        return json.dumps(value, ensure_ascii=False)
    return yaml.safe_dump(
        value, default_flow_style=True, allow_unicode=True, width=10_000, sort_keys=False
    ).removesuffix("...\n").strip()  # fmt: skip


def for_data(looked: Looked, suggestion: Suggestion, num_rows: int | None, warnings: Iterable[str]) -> str:
    """The recipe for data that was looked at. num_rows: as far as they were counted; None when they were not."""
    head = [f"Written by `tunesmith init {looked.path}`. `tunesmith schema` lists every key.", looked.found]
    if looked.prompts or looked.keys:
        head.append(looked.how)
    head += [f"Looked at, and worth a thought: {warning}" for warning in warnings]
    return write(head, [_model(suggestion), _data(looked, num_rows), _train(suggestion), _compare(looked)])


def template(suggestion: Suggestion) -> str:
    """The recipe for data that is not there yet."""
    data = [
        Line("path", "data.jsonl", "a file, folder or glob (csv, jsonl, parquet, txt, ...), or hub:owner/name"),
        Line("text", "text", "the column that is learned, or a template such as {title}: {body}"),
        Line("prompt", "question", "instead of text: read,", is_other=True),
        Line("completion", "answer", "and learned", is_other=True),
        Line("messages", "messages", "instead of text: chat turns; the assistant's are learned", is_other=True),
        Line("eval_fraction", 0.1, "rows held out for scores, never trained on"),
    ]
    head = ["Written by `tunesmith init`. `tunesmith schema` lists every key.", "Set data.path and what a row is."]
    compare = Section("compare", [Line("prompts", ["One fine morning"], "what base and tuned model are asked", True)])
    return write(head, [_model(suggestion), Section("data", data), _train(suggestion), compare])


def _model(suggestion: Suggestion) -> Section:
    others = [Line("name", name, what, is_other=True) for name, what in suggestion.others]
    return Section("model", [Line("name", suggestion.name, suggestion.why), *others])


def _data(looked: Looked, num_rows: int | None) -> Section:
    lines = [Line("path", looked.path)]
    for number, (key, column) in enumerate(looked.keys):
        lines.append(Line(key, column, looked.how if not number else ""))
    if not looked.keys:
        lines.append(Line("", comment=f"{looked.how}: no column has to be named"))
    if looked.others:
        first = looked.keys[0][1] if looked.keys else "text"
        both = f"{{{looked.others[0]}}}: {{{first}}}"
        if looked.kind in ("text", "template"):
            lines.append(Line("text", looked.others[0], "another column", is_other=True))
            lines.append(Line("text", both, "or several as one text", is_other=True))
            lines.append(Line("prompt", looked.others[0], f"or: read this, learn {first}", is_other=True))
            lines.append(Line("completion", first, is_other=True))
        if len(looked.others) > 1:
            lines.append(Line("", comment=f"also text: {', '.join(looked.others[1:8])}"))
    if looked.slice is not None:
        lines.append(Line("slice", looked.slice, "also report the held-out loss by it", is_other=True))
    few = num_rows is not None and num_rows < FEW_ROWS
    share = held_out_share(num_rows) if num_rows else 0.1
    lines.append(Line("eval_fraction", share, "rows held out for scores, never trained on" + ("; few rows" * few)))
    return Section("data", lines)


def held_out_share(num_rows: int) -> float:
    """A tenth; of few rows as much as holds 25, below which a loss says little, and at most three tenths."""
    return min(0.3, max(0.1, math.ceil(HELD_OUT_ROWS / num_rows * 20) / 20))


def _train(suggestion: Suggestion) -> Section:
    other = "full" if suggestion.method == "lora" else "lora"
    return Section(
        "train",
        [
            Line("method", suggestion.method, f"or {other}: " + _METHODS[other]),
            Line("epochs", 1, "more passes fit the text closer and copy it more"),
            Line("max_length", 1024, "tokens; longer documents are split between sentences"),
            Line(
                "learning_rate",
                "auto",
                "by the method; usual: 2e-5 to 3e-4, with an adapter 2e-4 to 3e-3",
                is_other=True,
            ),
        ],
    )


_METHODS = {"lora": "a few million weights are trained instead of all", "full": "every weight is trained"}


def _compare(looked: Looked) -> Section:
    prompts = list(looked.prompts)
    what = "what base and tuned model are asked to go on with"
    return Section("compare", [Line("prompts", prompts or ["One fine morning"], what, is_other=not prompts)])
