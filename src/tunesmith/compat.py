"""What tunesmith needs of other libraries beyond their public promises. Importing it imports none of them.

Every private name stands here once: a function that gives it, and by `private` a sentence that says what for and a
probe that tells whether the installed release still has it. Call the function where the name is used.

    @private("torch.utils._pytree.tree_iter", "The trace looks for tensors in the arguments of an operator.")
    def tree_iter(tree: Any) -> Iterator[Any]: ...
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

Found = TypeVar("Found")


@dataclass(frozen=True)
class Probe:
    """One private name of a library, what it is for, and a check that raises when it is gone or behaves otherwise."""

    name: str
    sentence: str
    check: Callable[[], object]


PROBES: list[Probe] = []


def private(name: str, sentence: str, check: Callable[[], object] | None = None) -> Callable[[Found], Found]:
    """Register the decorated function as the one place that touches `name`.

    check: raises when the name is gone or behaves otherwise; without it the function is called with no arguments.
    """

    def register(function: Found) -> Found:
        PROBES.append(Probe(name, sentence, check or function))  # type: ignore[arg-type]
        return function

    return register


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """transformers and peft without their progress bars, notes and deprecation warnings about each other."""
    from transformers.utils import logging as their_logging

    level, bars = their_logging.get_verbosity(), their_logging.is_progress_bar_enabled()
    their_logging.set_verbosity_error()
    their_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        their_logging.set_verbosity(level)
        if bars:
            their_logging.enable_progress_bar()
