"""Processes that were asked for different things are told so, before anything is exchanged."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tunesmith.training.processes.distributed import EXCHANGE_SECONDS, Team
from tunesmith.training.processes.together import Asked, differs

FIRST = Asked({"train": {"learning_rate": 0.1}, "seed": 1}, {"data": "a", "model": "b"}, 10, "1.0", {})


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (FIRST, ""),
        (replace(FIRST, plan={"micro_batch_tokens": 7}), ""),
        (replace(FIRST, recipe={"train": {"learning_rate": 0.2}, "seed": 1}), "train.learning_rate is 0.2, not 0.1"),
        (replace(FIRST, recipe={**FIRST.recipe, "seed": 2}), "seed is 2, not 1"),
        (replace(FIRST, fingerprints={"data": "c", "model": "b"}), "its data has another fingerprint"),
        (replace(FIRST, step=5), "it goes on from step 5, not 10"),
        (replace(FIRST, version="1.1"), "it runs tunesmith 1.1, not 1.0"),
    ],
)
def test_what_differs_is_named(other: Asked, message: str) -> None:
    assert differs(FIRST, other) == message


@pytest.mark.parametrize(
    ("error", "how"),
    [
        ("Connection closed by peer [127.0.0.1]:4000", "is gone"),
        (
            "Timed out waiting 1800000ms for recv operation to complete",
            f"did not answer within {EXCHANGE_SECONDS // 60}",
        ),
    ],
)
def test_a_failed_exchange_is_told_from_one_that_never_ends(error: str, how: str) -> None:
    told = str(Team.lost(RuntimeError(error), 7))
    assert told.startswith(f"step 7: another process of this run {how}")
    assert "the newest checkpoint" in told
