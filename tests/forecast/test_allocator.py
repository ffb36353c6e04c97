"""The model of the GPU's caching allocator."""

from __future__ import annotations

import random

import pytest

from tunesmith.forecast.allocator import CachingAllocator
from tunesmith.forecast.tracing.trace import Event

MIB = 2**20


def test_small_requests_share_a_segment_of_two_mib() -> None:
    allocator = CachingAllocator()
    for storage in range(4):
        allocator.malloc(storage, 1)
    assert (allocator.allocated, allocator.reserved) == (4 * 512, 2 * MIB)


def test_middle_requests_are_cut_from_twenty_mib() -> None:
    allocator = CachingAllocator()
    allocator.malloc(1, 4 * MIB)
    allocator.malloc(2, 4 * MIB)
    assert allocator.reserved == 20 * MIB


def test_large_requests_get_a_segment_rounded_to_two_mib() -> None:
    allocator = CachingAllocator()
    allocator.malloc(1, 11 * MIB + 1)
    assert allocator.reserved == 12 * MIB


def test_the_smallest_block_that_is_large_enough_is_reused() -> None:
    allocator = CachingAllocator()
    for storage, size in ((1, 40), (2, 20), (3, 30)):
        allocator.malloc(storage, size * MIB)
    for storage in (1, 2, 3):
        allocator.free(storage)
    allocator.malloc(4, 25 * MIB)
    assert allocator.reserved == 90 * MIB
    assert allocator.allocated == 25 * MIB  # cut from the block of 30, the rest stays free
    allocator.malloc(5, 20 * MIB)
    allocator.malloc(6, 40 * MIB)
    assert allocator.reserved == 90 * MIB


def test_a_rest_of_at_most_one_mib_is_not_split_off() -> None:
    allocator = CachingAllocator()
    allocator.malloc(1, 12 * MIB)
    allocator.free(1)
    allocator.malloc(2, 11 * MIB)
    assert allocator.allocated == 12 * MIB


def test_neighbours_are_merged() -> None:
    allocator = CachingAllocator()
    for storage in range(5):
        allocator.malloc(storage, 4 * MIB)
    for storage in (1, 3, 2):
        allocator.free(storage)
    allocator.malloc(9, 12 * MIB)  # fits where 1, 2 and 3 were
    assert allocator.reserved == 20 * MIB


def test_free_segments_are_given_back_before_memory_runs_out() -> None:
    allocator = CachingAllocator(capacity=50 * MIB)
    allocator.malloc(1, 40 * MIB)
    allocator.free(1)
    allocator.malloc(2, 44 * MIB)
    assert (allocator.reserved, allocator.out_of_memory) == (44 * MIB, False)
    allocator.malloc(3, 20 * MIB)
    assert allocator.out_of_memory


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_lost_in_a_long_random_life(seed: int) -> None:
    choose = random.Random(seed)
    allocator, alive, events = CachingAllocator(), list[int](), list[Event]()
    for storage in range(2_000):
        events.append(Event(storage, choose.choice([700, 90_000, 3 * MIB, 17 * MIB]), True))
        alive.append(storage)
        if len(alive) > 40 or choose.random() < 0.3:
            events.append(Event(alive.pop(choose.randrange(len(alive))), 0, False))
    allocator.replay(events)
    assert 0 < allocator.allocated <= allocator.reserved == allocator.peak_reserved
    for storage in alive:
        allocator.free(storage)
    assert allocator.allocated == 0
    free = sum(block.size for block in allocator._by_address.values())
    assert free == allocator.reserved == sum(allocator._segments.values())
