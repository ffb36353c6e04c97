"""Python that a page shows can be read, and what it asks of a run and of the package is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import tunesmith
from tunesmith import Run

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]
BLOCKS = [
    (page.name, block)
    for page in PAGES
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
]


@pytest.mark.parametrize(("page", "block"), BLOCKS, ids=[f"{page}-{number}" for number, (page, _) in enumerate(BLOCKS)])
def test_it_can_be_read_and_asks_for_what_is_there(page: str, block: str) -> None:
    for node in ast.walk(ast.parse(block, page)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = {"run": Run, "tunesmith": tunesmith}.get(node.value.id)
            assert owner is None or hasattr(owner, node.attr) or node.attr == "path", ast.unparse(node)
