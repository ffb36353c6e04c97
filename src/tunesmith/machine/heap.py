"""Memory of the process: large tensors in huge pages, and what a phase leaves behind given back."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
from collections.abc import Iterator


def use_huge_pages() -> None:
    """Let torch ask for huge pages, where a step's tensors cost a page fault per 2 MiB instead of one per 4 KiB.

    Call it before torch allocates anything; it looks once. What the environment says is left alone. Measured: 5% more
    tokens per second for SmolLM2-135M on two Zen 4 cores.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """The garbage collector rests: a million objects that libraries make while they load, and keep, are not looked at.

    Measured: 0.5 of 8 processor seconds of a short run; of the 5 in which a tokenizer loads, and torch and transformers
    with it, 1.0 to 1.2 in 1,085 collections before and 0.6 in 215 since.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def give_back() -> None:
    """Return to the system what is free now: between phases, whose blocks do not fit into each other's gaps.

    Does nothing where malloc is not glibc's.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)
