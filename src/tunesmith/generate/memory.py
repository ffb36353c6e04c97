"""What a model keeps of the texts that it writes: keys and values by layer, for rows that join and leave.

All rows end in the same column; a shorter row has padding in front. So a row joins by padding whichever side is
shorter, and leaves by being dropped, with the columns that only it filled.

Legend of the suffixes of tensor names: B rows, H heads, L columns, D width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

SPARE_COLUMNS = 64
"""Columns by which room grows: a step writes into its place instead of copying all that is kept."""


class Columns(DynamicLayer):
    """One layer's keys and values, with room for the next columns."""

    keys: Tensor | None
    values: Tensor | None
    is_initialized: bool

    def __init__(self) -> None:
        super().__init__()
        self._room: tuple[Tensor, Tensor] | None = None
        self._begin = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keep further columns. Returns all of them, the new ones last."""
        if not self.is_initialized or self.keys is None or self.values is None:
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
            self.keys, self.values = key_states, value_states
            return key_states, value_states
        length, more = self.keys.shape[2], key_states.shape[2]
        end = self._begin + length + more
        if self._room is None or end > self._room[0].shape[2]:
            self._room = _with_room(self.keys, more), _with_room(self.values, more)
            self._begin, end = 0, length + more
        keys, values = self._room
        keys[:, :, end - more : end], values[:, :, end - more : end] = key_states, value_states
        self.keys, self.values = keys[:, :, self._begin : end], values[:, :, self._begin : end]
        return self.keys, self.values

    def put(self, keys: Tensor, values: Tensor) -> None:
        """Hold these instead."""
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self.keys, self.values, self._room, self._begin = keys, values, None, 0

    def drop_first(self, number: int) -> None:
        """Let go of the first columns; what follows stays where it is."""
        keys, values = self.held()
        self.keys, self.values, self._begin = keys[:, :, number:], values[:, :, number:], self._begin + number

    def held(self) -> tuple[Tensor, Tensor]:
        """Keys and values."""
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values


class Memory:
    """Keys and values of several rows; `cache` is what the model's forward is given and adds to."""

    def __init__(self, num_layers: int) -> None:
        self.layers = [Columns() for _ in range(num_layers)]
        self.cache = Cache(layers=self.layers)

    @property
    def num_columns(self) -> int:
        return int(self.layers[0].get_seq_length()) if self.layers else 0

    @property
    def num_bytes(self) -> int:
        return sum(
            t.numel() * t.element_size() for layer in self.layers for t in (layer.keys, layer.values) if t is not None
        )

    def join(self, other: Memory) -> None:
        """Take the rows of `other` in, behind those that are here."""
        if not self.num_columns:
            self.layers, self.cache = other.layers, other.cache
            return
        columns = max(self.num_columns, other.num_columns)
        for mine, more in zip(self.layers, other.layers, strict=True):
            (keys, values), (other_keys, other_values) = mine.held(), more.held()
            mine.put(_stacked(keys, other_keys, columns), _stacked(values, other_values, columns))

    def keep(self, rows: list[int], columns: int) -> None:
        """Only these rows and the last `columns` columns."""
        for layer in self.layers:
            keys, values = layer.held()
            first = keys.shape[2] - columns
            if len(rows) < keys.shape[0]:
                layer.put(keys[rows, :, first:], values[rows, :, first:])
            elif first:
                layer.drop_first(first)

    def copy_row(self, row: int, columns: slice) -> Memory:
        """Some columns of one row, on their own."""
        copied = Memory(len(self.layers))
        for mine, its in zip(self.layers, copied.layers, strict=True):
            keys, values = mine.held()
            its.put(keys[row : row + 1, :, columns].clone(), values[row : row + 1, :, columns].clone())
        return copied


def num_joinable_layers(model: Any) -> int | None:
    """Layers whose memory is keys and values by token; None where a model keeps something else (a state that is
    overwritten), so that its rows can neither join nor share a beginning."""
    layers = DynamicCache(config=model.config).layers
    known = {DynamicLayer, DynamicSlidingWindowLayer}
    return len(layers) if layers and all(type(layer) in known for layer in layers) else None


def _with_room(kept_BHLD: Tensor, more: int) -> Tensor:
    rows, heads, length, width = kept_BHLD.shape
    room = kept_BHLD.new_empty(rows, heads, length + more + SPARE_COLUMNS, width)
    room[:, :, :length] = kept_BHLD
    return room


def _stacked(first_BHLD: Tensor, second_BHLD: Tensor, columns: int) -> Tensor:
    parts = [pad(part, (0, 0, columns - part.shape[2], 0)) for part in (first_BHLD, second_BHLD)]
    return torch.cat(parts)
