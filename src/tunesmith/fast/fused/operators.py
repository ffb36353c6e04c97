"""Operators of our own, known to torch by name, so that a trace without values sees what they allocate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

LIBRARY = torch.library.Library("tunesmith", "FRAGMENT")


def define(schema: str, *, cpu: Callable[..., Any], cuda: Callable[..., Any], shapes: Callable[..., Any]) -> Any:
    """The operator `tunesmith::schema`: `cuda` launches its kernel, `cpu` is the reference, `shapes` only allocates.

    Autograd does not know it: it is called inside autograd functions.
    """
    LIBRARY.define(schema)
    name = schema.partition("(")[0]
    LIBRARY.impl(name, cpu, "CPU")
    LIBRARY.impl(name, cuda, "CUDA")
    torch.library.register_fake(f"tunesmith::{name}", shapes)
    return getattr(torch.ops.tunesmith, name).default


def power_of_two(number: int) -> int:
    """The smallest power of two that is not below `number`."""
    return 1 << max(number - 1, 0).bit_length()
