"""An examination of the machine for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunesmith.doctor import Examination
from tunesmith.show.verdicts import verdicts

if TYPE_CHECKING:
    from rich.console import Console


def print_examination(examination: Examination, console: Console) -> None:
    """A line a check, with what to do where one is not ok, and the verdict."""
    style = "bold" if examination.can_train else "bold red"
    console.print(verdicts(examination.checks))
    console.print(examination.summary(), style=style, highlight=False)
