"""Steps and micro-batches: every document once an epoch, equal steps, budgets kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.tokens.steps import epoch_steps, micro_batches, rank_share, run_steps, steps_in_epoch

LENGTHS = np.random.default_rng(0).integers(5, 90, 1000)


def test_every_document_is_seen_once_an_epoch() -> None:
    steps = epoch_steps(LENGTHS, 512, seed=7, epoch=0)
    assert sorted(np.concatenate(steps)) == list(range(1000))


def test_steps_hold_about_the_budget() -> None:
    sizes = [LENGTHS[step].sum() for step in epoch_steps(LENGTHS, 512, seed=7, epoch=0)]
    assert len(sizes) == steps_in_epoch(LENGTHS, 512) == round(LENGTHS.sum() / 512)
    assert max(sizes) < 512 + 2 * LENGTHS.max()
    assert min(sizes) > 512 - 2 * LENGTHS.max()


def test_order_changes_with_epoch_and_seed_only() -> None:
    first = epoch_steps(LENGTHS, 512, seed=7, epoch=0)
    again = epoch_steps(LENGTHS, 512, seed=7, epoch=0)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    for other in (epoch_steps(LENGTHS, 512, seed=7, epoch=1), epoch_steps(LENGTHS, 512, seed=8, epoch=0)):
        assert not (np.concatenate(first) == np.concatenate(other)).all()


def test_steps_are_random_in_length() -> None:
    means = [LENGTHS[step].mean() for step in epoch_steps(LENGTHS, 2048, seed=7, epoch=0)]
    assert np.std(means) < LENGTHS.std() / 2


def test_a_longer_run_begins_like_a_shorter_one() -> None:
    short = run_steps(LENGTHS, 512, seed=7, epochs=1)
    longer = run_steps(LENGTHS, 512, seed=7, epochs=2.5)
    assert all((a == b).all() for a, b in zip(short, longer, strict=False))
    assert len(longer) == pytest.approx(2.5 * len(short), abs=1)
    assert len(run_steps(LENGTHS, 512, seed=7, epochs=3, max_steps=11)) == 11


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.integers(1, 400))
def test_micro_batches_keep_the_budget(lengths: list[int], budget: int) -> None:
    fed = np.array(lengths)
    batches = micro_batches(np.arange(len(fed)), fed, budget)
    assert sorted(np.concatenate(batches)) == list(range(len(fed)))
    for batch in batches:
        assert len(batch) == 1 or fed[batch].sum() <= budget


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.integers(1, 5))
def test_ranks_share_a_step(lengths: list[int], num_processes: int) -> None:
    fed = np.array(lengths)
    shares = [rank_share(np.arange(len(fed)), fed, rank, num_processes) for rank in range(num_processes)]
    assert sorted(np.concatenate(shares)) == list(range(len(fed)))
    loads = [fed[share].sum() for share in shares]
    assert max(loads) - min(loads) <= fed.max()
