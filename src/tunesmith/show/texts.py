"""Texts as they are written: each after its prompt."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from tunesmith.generate.batch import TextStream

_MOVES = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def show_texts(streams: Iterable[TextStream], console: Console) -> None:
    """Prompt and text, one after the other; on a terminal nothing in them can move the cursor."""
    for stream in streams:
        _write(console, f"{stream.prompt}\n\n" if stream.is_answer else stream.prompt)
        for piece in stream.pieces:
            _write(console, piece.text)
        _write(console, "\n\n")


def _write(console: Console, text: str) -> None:
    console.file.write(_MOVES.sub("\N{REPLACEMENT CHARACTER}", text) if console.is_terminal else text)
    console.file.flush()
