"""Every message of docs/troubleshooting.md is one that the source says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import tunesmith

PAGE = (Path(__file__).parents[2] / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
MESSAGES = [
    message
    for row in re.findall(r"^\| (`.*?) \| ", PAGE, re.MULTILINE)
    for message in re.findall(r"`([^`]+)`", row)
    if message != "CUDA out of memory"  # named because it is not said
]
ANYTHING = "\0"


def said() -> str:
    """Every text of the source, a line each; what is put in by f-strings and format is ANYTHING."""
    lines = []
    for path in Path(tunesmith.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (str(part.value) if isinstance(part, ast.Constant) else ANYTHING for part in node.values)
                lines.append("".join(parts).replace("\n", " "))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                lines.append(re.sub(r"\{\w*\}", ANYTHING, node.value).replace("\n", " "))
    return "\n".join(lines)


SAID = said()


def test_there_are_many() -> None:
    assert len(MESSAGES) >= 45


@pytest.mark.parametrize("message", MESSAGES)
def test_it_is_said(message: str) -> None:
    pattern = f"[^\n]*{ANYTHING}[^\n]*".join(re.escape(part) for part in message.split("..."))
    assert re.search(pattern, SAID), "not said by any text of src any more"
