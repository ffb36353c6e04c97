"""What is live in a notebook: a line, with or without a bar, drawn again in its place in the output of the cell.

Notebooks bring IPython with them, so nothing is imported and nothing is to be installed: rich's own live displays need
ipywidgets there, and without them draw nothing.
"""

from __future__ import annotations

import builtins
import html
import time
import uuid
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

REDRAW_SECONDS = 0.2
"""A notebook keeps every picture that it is sent until the next one is drawn, and sends it over a network."""


def publisher(console: Console) -> Any:
    """IPython's display publisher where `console` writes to a notebook that shows what is live; else None."""
    if console.quiet or not console.is_jupyter:
        return None
    shell = getattr(builtins, "get_ipython", lambda: None)()  # rich asked it too
    return getattr(shell, "display_pub", None)


class NotebookLine:
    """One line in the output of the cell. It stays where it was begun, as it was drawn last."""

    def __init__(self, display: Any) -> None:
        """display: what `publisher` gives."""
        self._display = display
        self._id: str | None = None
        self._drawn = 0.0

    def draw(self, text: str, done: int = 0, total: int | None = None, *, now: bool = False) -> None:
        """Show `text`, behind a bar where there is a `total`; not more often than the eye sees, unless `now`."""
        if not now and time.monotonic() - self._drawn < REDRAW_SECONDS:
            return
        self._drawn = time.monotonic()
        bar = "" if total is None else f'<progress value="{done}" max="{total}"></progress> {done}/{total} '
        plain = text if total is None else f"{done}/{total} {text}"
        data = {"text/plain": plain, "text/html": f"<div>{bar}{html.escape(text)}</div>"}
        is_first, self._id = self._id is None, self._id or uuid.uuid4().hex
        self._display.publish(data=data, metadata={}, transient={"display_id": self._id}, update=not is_first)
