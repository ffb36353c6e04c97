"""A few sizes for the batches of a run, and batches that are filled up to one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tunesmith.errors import ModelError
from tunesmith.fast.batches.fixed import FixedBatch
from tunesmith.fast.batches.layout import IGNORED, Size, flatten
from tunesmith.fast.batches.sizes import MAX_FILL, MAX_SIZES, choose_sizes, size_for

LONGEST = 128


def steps_of(tokens_per_step: int, num_steps: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, targets and documents of steps, their documents as long as descriptions are."""
    random, found = np.random.default_rng(seed), []
    for _ in range(num_steps):
        lengths = random.integers(12, 60, tokens_per_step // 20)
        lengths = lengths[: int(np.searchsorted(np.cumsum(lengths), tokens_per_step)) + 1]
        found.append((lengths.sum(), lengths.sum(), len(lengths)))
    tokens, targets, documents = (np.array(column, dtype=np.int64) for column in zip(*found, strict=True))
    return tokens, targets, documents


@pytest.mark.parametrize(("tokens_per_step", "most"), [(256, 5), (1024, 2), (16384, 1)])
def test_a_run_has_few_sizes_and_little_is_filled_up(tokens_per_step: int, most: int) -> None:
    steps = steps_of(tokens_per_step, 300)
    sizes = choose_sizes(*steps, LONGEST)
    assert 1 <= len(sizes) <= most
    found = [size_for(sizes, *map(int, step)) for step in zip(*steps, strict=True)]
    filled = [size.tokens - tokens for size, tokens in zip(found, steps[0], strict=True) if size is not None]
    assert len(filled) >= 0.98 * len(steps[0])
    assert sum(filled) <= MAX_FILL * steps[0].sum()
    assert all(size.targets == size.tokens and size.tokens % 16 == 0 for size in sizes)


def test_steps_of_all_sizes_keep_the_most_frequent_ones() -> None:
    tokens = np.repeat(np.geomspace(300, 30000, 60).astype(np.int64), np.arange(1, 61))
    sizes = choose_sizes(tokens, tokens, tokens // 30, LONGEST)
    assert len(sizes) == MAX_SIZES
    assert sizes[-1].tokens >= 30000
    assert size_for(sizes, 300, 300, 10) is None
    assert size_for(sizes, 40000, 40000, 10) is None
    assert choose_sizes(tokens[:0], tokens[:0], tokens[:0], LONGEST) == ()


def test_few_targets_have_few_rows() -> None:
    tokens, _, documents = steps_of(1024, 100)
    sizes = choose_sizes(tokens, tokens // 4, documents, LONGEST)
    assert all(size.targets <= 0.32 * size.tokens for size in sizes)


def documents_of(*lengths: int) -> list[tuple[list[int], list[bool]]]:
    """Each with a first half that is not learned."""
    return [(list(range(1, length + 2)), [number > length // 2 for number in range(length + 1)]) for length in lengths]


@pytest.mark.parametrize(("tokens", "targets"), [(64, 64), (64, 24), (48, 20)])
def test_a_batch_is_filled_up_to_its_size(tokens: int, targets: int) -> None:
    documents = documents_of(9, 20, 5)
    plain, size = flatten(documents), Size(tokens, targets, 8, 20)
    assert size.holds(34, plain.num_targets, 3)
    batch = flatten(documents, size=size)
    assert (batch.num_tokens, len(batch.cu_seqlens), batch.max_length) == (tokens, 9, 20)
    assert max(batch.lengths) <= 20, "attention sees the end of each"
    assert batch.cu_seqlens[len(batch.lengths) :].unique().tolist() == [tokens]
    assert batch.num_targets == plain.num_targets
    rows = torch.arange(tokens) if batch.target_rows is None else batch.target_rows
    assert len(rows) == targets
    assert len(rows.unique()) == targets, "gradients of no row are added twice"
    seen = batch.targets[rows]
    assert sorted(seen[seen != IGNORED].tolist()) == sorted(plain.targets[plain.targets != IGNORED].tolist())


def test_a_size_that_lacks_places_does_not_hold() -> None:
    assert not Size(64, 64, 3, 16).holds(40, 40, 2), "24 tokens take two documents more"
    assert Size(64, 64, 4, 16).holds(40, 40, 2)
    assert not Size(64, 30, 4, 16).holds(40, 31, 2)


@pytest.mark.parametrize("targets", [64, 40])
def test_a_fixed_batch_keeps_its_place(targets: int) -> None:
    size = Size(64, targets, 8, 20)
    fixed = FixedBatch(size, torch.device("cpu"))
    places = [fixed.blind.input_ids.data_ptr(), fixed.denominator.data_ptr()]
    for lengths in ((9, 20, 5), (20, 20, 7, 3)):
        batch = flatten(documents_of(*lengths), size=size)
        fixed.load(batch, batch.num_targets)
        for name in ("input_ids", "position_ids", "targets", "cu_seqlens"):
            assert torch.equal(getattr(fixed.flat, name), getattr(batch, name)), name
            assert getattr(fixed.flat, name).dtype == getattr(batch, name).dtype
        assert (fixed.flat.target_rows is None) == (targets == 64)
        if batch.target_rows is not None and fixed.flat.target_rows is not None:
            assert torch.equal(fixed.flat.target_rows, batch.target_rows)
        assert (float(fixed.denominator), fixed.flat.lengths) == (batch.num_targets, batch.lengths)
        assert fixed.flat.buckets
        assert [fixed.flat.input_ids.data_ptr(), fixed.denominator.data_ptr()] == places
        assert torch.equal(fixed.blind.input_ids, batch.input_ids)
    with pytest.raises(ModelError, match="depends on the length of each"):
        _ = fixed.blind.buckets
