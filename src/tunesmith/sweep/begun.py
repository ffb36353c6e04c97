"""What a folder was begun with: two sweeps that differ in it cannot be compared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunesmith.disk import write_text
from tunesmith.errors import SweepError


def check_same(path: Path, asked: dict[str, Any], *, what: str = "trials") -> None:
    """Write what a sweep depends on, or compare it with what was written. Raises SweepError that names what differs.

    what: the results that could not be compared.
    """
    text = json.dumps(asked, indent=2, ensure_ascii=False) + "\n"
    if not path.exists():
        write_text(path, text)
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    now = json.loads(text)
    changed = ", ".join(_changes(before, now))
    if changed:
        raise SweepError(
            f"{path.parent}: holds a sweep that differs in {changed}. Its {what} cannot be compared with new ones: "
            "give another --out, or what it began with."
        )


def _changes(before: dict[str, Any], now: dict[str, Any], above: str = "") -> Iterator[str]:
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _changes(old, new, f"{above}{key}.")
        elif old != new:
            yield f"{above}{key}"
