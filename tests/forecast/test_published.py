"""The published memory of a plain Trainer (float32, AdamW, rows padded to 2048) on one GPU, from recipes alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.plan.quote import plan
from tunesmith.recipe import Recipe

REFERENCE = Path(__file__).parents[2] / "recipes" / "reference"
PUBLISHED = {
    "gpt-neo-125m-batch-1": 8,
    "gpt-neo-125m-batch-4": 26,
    "gpt-neo-125m-batch-8": 50,
    "gpt-neo-1.3b-batch-1": 35,
    "gpt-neo-1.3b-batch-2": 55,
    "gpt-neo-1.3b-batch-2-accumulate-8": 60,
    "gpt-neo-2.7b-batch-1": 65,
}
"""Decimal gigabytes, training rows of the table."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_row_is_within_seven_per_cent(name: str) -> None:
    report = plan(Recipe.load(REFERENCE / f"{name}.yaml"), gpu="a100-80gb")
    (quote,) = report.quotes
    assert quote.forecast.memory.peak_bytes / 1e9 == pytest.approx(PUBLISHED[name], rel=0.07)
    assert quote.found.fit in ("fits", "tight")


def test_there_is_a_recipe_for_every_row() -> None:
    assert {path.stem for path in REFERENCE.glob("gpt-neo-*.yaml")} == set(PUBLISHED)
