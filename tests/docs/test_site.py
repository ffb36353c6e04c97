"""The menu of the site holds every page once, and no picture lies there unseen."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MENU = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]


def pages(entries: list[dict[str, Any]]) -> Iterator[str]:
    for entry in entries:
        for below in entry.values():
            if isinstance(below, str):
                yield below
            else:
                yield from pages(below)


def test_every_page_is_in_the_menu() -> None:
    named = list(pages(MENU))
    assert len(named) == len(set(named))
    assert sorted(named) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_every_picture_is_shown_somewhere() -> None:
    texts = "".join(path.read_text(encoding="utf-8") for path in [*ROOT.glob("docs/*.md"), ROOT / "README.md"])
    shown = set(re.findall(r"images/([\w.-]+)\)", texts))
    assert shown == {path.name for path in (ROOT / "docs" / "images").iterdir()}


def test_files_that_are_named_are_there() -> None:
    texts = "".join(path.read_text(encoding="utf-8") for path in [*ROOT.glob("docs/*.md"), *ROOT.glob("*.md")])
    named = set(
        re.findall(r"\b(?:src/tunesmith|tests|benchmarks|recipes|examples)/[\w/-]+\.(?:py|yaml|ipynb|md)\b", texts)
    )
    assert len(named) > 20
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
