"""What a GPU's caching allocator reserves for a stream of allocations.

A model of c10/cuda/CUDACachingAllocator.cpp with default settings and one stream: sizes are rounded to 512 bytes; up
to 1 MiB a request is cut from 2 MiB segments, up to 10 MiB from 20 MiB segments, and beyond it gets a segment of its
own, rounded to 2 MiB. The smallest free block that is large enough is taken and split; neighbours are merged when
freed; when the device is full, whole free segments are given back and the request is tried again.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass, field

from tunesmith.forecast.tracing.trace import Event

MIN_BLOCK = 512
SMALL_SIZE = 1 << 20
SMALL_SEGMENT = 2 << 20
LARGE_SEGMENT = 20 << 20
MIN_OWN_SEGMENT = 10 << 20
ROUND_SEGMENT = 2 << 20


@dataclass(frozen=True)
class Block:
    """A piece of a segment. Addresses are only compared within a segment."""

    address: int
    size: int
    segment: int
    small: bool


@dataclass
class CachingAllocator:
    """Allocates and frees storages; `capacity` (bytes, or None) is what all segments together may take."""

    capacity: int | None = None
    reserved: int = 0
    peak_reserved: int = 0
    allocated: int = 0
    peak_allocated: int = 0
    out_of_memory: bool = False
    """A request could not be met even after cached segments were given back."""
    _used: dict[int, Block] = field(default_factory=dict, repr=False)
    _free: dict[bool, list[tuple[int, int]]] = field(default_factory=lambda: {True: [], False: []}, repr=False)
    _by_address: dict[int, Block] = field(default_factory=dict, repr=False)
    _by_end: dict[int, Block] = field(default_factory=dict, repr=False)
    _segments: dict[int, int] = field(default_factory=dict, repr=False)
    _next_address: int = 1

    def replay(self, events: Iterable[Event]) -> CachingAllocator:
        """Follow births and deaths in order."""
        for event in events:
            if event.born:
                self.malloc(event.storage, event.num_bytes)
            else:
                self.free(event.storage)
        return self

    def malloc(self, storage: int, num_bytes: int) -> None:
        size = max(MIN_BLOCK, -(-num_bytes // MIN_BLOCK) * MIN_BLOCK)
        block = self._split(self._find(size) or self._new_segment(size), size)
        self._used[storage] = block
        self.allocated += block.size
        self.peak_allocated = max(self.peak_allocated, self.allocated)

    def free(self, storage: int) -> None:
        block = self._used.pop(storage)
        self.allocated -= block.size
        after = self._by_address.get(block.address + block.size)
        if after is not None and after.segment == block.segment:
            self._remove_free(after)
            block = Block(block.address, block.size + after.size, block.segment, block.small)
        before = self._by_end.get(block.address)
        if before is not None and before.segment == block.segment:
            self._remove_free(before)
            block = Block(before.address, before.size + block.size, block.segment, block.small)
        self._add_free(block)

    def _find(self, size: int) -> Block | None:
        """The smallest free block of the pool that holds `size`, taken off the free list."""
        pool = self._free[size <= SMALL_SIZE]
        position = bisect.bisect_left(pool, (size, 0))
        if position == len(pool):
            return None
        block = self._by_address[pool[position][1]]
        self._remove_free(block)
        return block

    def _new_segment(self, size: int) -> Block:
        small = size <= SMALL_SIZE
        if small:
            segment_size = SMALL_SEGMENT
        elif size < MIN_OWN_SEGMENT:
            segment_size = LARGE_SEGMENT
        else:
            segment_size = -(-size // ROUND_SEGMENT) * ROUND_SEGMENT
        if self.capacity is not None and self.reserved + segment_size > self.capacity:
            self._release_segments()
            self.out_of_memory |= self.reserved + segment_size > self.capacity
        address = self._next_address
        self._next_address += segment_size + 1  # a gap, so that no block touches the next segment
        self._segments[address] = segment_size
        self.reserved += segment_size
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        return Block(address, segment_size, address, small)

    def _split(self, block: Block, size: int) -> Block:
        rest = block.size - size
        if rest < MIN_BLOCK or (not block.small and rest <= SMALL_SIZE):
            return block
        self._add_free(Block(block.address + size, rest, block.segment, block.small))
        return Block(block.address, size, block.segment, block.small)

    def _release_segments(self) -> None:
        """Give back every segment that is wholly free."""
        for block in list(self._by_address.values()):
            if self._segments.get(block.address) == block.size:
                self._remove_free(block)
                del self._segments[block.address]
                self.reserved -= block.size

    def _add_free(self, block: Block) -> None:
        bisect.insort(self._free[block.small], (block.size, block.address))
        self._by_address[block.address] = block
        self._by_end[block.address + block.size] = block

    def _remove_free(self, block: Block) -> None:
        pool = self._free[block.small]
        del pool[bisect.bisect_left(pool, (block.size, block.address))]
        del self._by_address[block.address]
        del self._by_end[block.address + block.size]
