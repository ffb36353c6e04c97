"""Which cases run with every change, and which in `make test-all` only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def sample(values: Iterable[Any], *per_change: int) -> list[Any]:
    """Parameters of which those at the positions `per_change` run with every change; the others are slow."""
    return [
        pytest.param(
            *(value if isinstance(value, tuple) else (value,)), marks=[] if i in per_change else pytest.mark.slow
        )
        for i, value in enumerate(values)
    ]
