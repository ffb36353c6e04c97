"""Every message of docs/troubleshooting.md is one that the source says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import tunesmith
from tunesmith import errors

PAGE = (Path(__file__).parents[2] / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
MESSAGES = [
    message
    for row in re.findall(r"^\| (`.*?) \| ", PAGE, re.MULTILINE)
    for message in re.findall(r"`([^`]+)`", row)
    if message != "CUDA out of memory"  # named because it is not said
]
ANYTHING = "\0"


SOURCE = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted(Path(tunesmith.__file__).parent.rglob("*.py"))]
KINDS = [
    name
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, errors.TunesmithError) and value is not errors.TunesmithError
]


def texts_in(tree: ast.AST) -> Iterator[str]:
    """Every text, a line each; what is put in by f-strings and format is ANYTHING."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (str(part.value) if isinstance(part, ast.Constant) else ANYTHING for part in node.values)
            yield "".join(parts).replace("\n", " ")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r"\{\w*\}", ANYTHING, node.value).replace("\n", " ")


SAID = "\n".join(text for tree in SOURCE for text in texts_in(tree))


def raised(kind: str) -> str:
    """The texts of every `raise kind(...)`."""
    calls = (
        node.exc
        for tree in SOURCE
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and ast.unparse(node.exc.func) == kind
    )
    return "\n".join(text for call in calls for text in texts_in(call))


def is_in(message: str, texts: str) -> bool:
    pattern = f"[^\n]*{ANYTHING}[^\n]*".join(re.escape(part) for part in message.split("..."))
    return re.search(pattern, texts) is not None


def test_there_are_many() -> None:
    assert len(MESSAGES) >= 45


@pytest.mark.parametrize("message", MESSAGES)
def test_it_is_said(message: str) -> None:
    assert is_in(message, SAID), "not said by any text of src any more"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_error_is_there(kind: str) -> None:
    assert f"`{kind}`" in PAGE
    texts = raised(kind)
    assert any(is_in(message, texts) for message in MESSAGES), f"no message of a {kind} stands on the page"
