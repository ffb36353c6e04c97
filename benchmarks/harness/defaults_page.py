"""The tables of docs/defaults.md, from the lines that trials left: written anew between two marks of the page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from harness.trials import Setting

_MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_TEXT = ("text", "rows")


def rewritten(page: str, folder: Path) -> str:
    """The page with every table as the lines in `folder` have it."""
    return _MARKED.sub(lambda found: found[1] + table(_lines(folder / f"{found[2]}.jsonl")) + found[3], page)


def table(lines: list[dict[str, Any]]) -> str:
    """Trials of one text together, the lowest loss first."""
    rows = [
        "| text | what differs | steps | tokens learned | held-out loss | against the defaults |",
        "|---|---|---:|---:|---:|---:|",
    ]
    usual = {_key(line): line["evaluations"][-1][2] for line in lines if not _changes(line) and line["evaluations"]}
    for line in sorted(
        lines, key=lambda line: (_key(line), line["evaluations"][-1][2] if line["evaluations"] else 9e9)
    ):
        rows.append(_row(line, usual.get(_key(line))))
        if line["average_loss"] is not None:
            rows.append(_row(line, usual.get(_key(line)), line["average_loss"]))
    return "\n".join(rows) + "\n"


def _row(line: dict[str, Any], usual: float | None, average: float | None = None) -> str:
    loss = average if average is not None else line["evaluations"][-1][2] if line["evaluations"] else None
    told = ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in _changes(line).items()
    )
    told = (told or "the defaults") + (": of the average" if average is not None else "")
    against = "" if loss is None or usual is None or not _changes(line) else f"{loss - usual:+.3f}"
    shown = "diverged" if loss is None else f"{line['base_loss']:.3f} → {loss:.3f}"
    text = f"{line['setting']['text']}, {line['setting']['rows']:,} rows"
    return f"| {text} | {told} | {line['num_steps']} | {line['tokens']:,} | {shown} | {against} |"


def _changes(line: dict[str, Any]) -> dict[str, Any]:
    """What is tried: all that is not as usual but the text itself."""
    return {name: value for name, value in Setting(**line["setting"]).changed().items() if name not in _TEXT}


def _key(line: dict[str, Any]) -> tuple[str, int]:
    return line["setting"]["text"], line["setting"]["rows"]


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
