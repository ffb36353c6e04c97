"""One narrow copy of each weight a step, where autocast would make one for each product of each micro-batch.

Weights that a product takes together (q, k, v; gate, up) lie side by side in one buffer. The copies are renewed
together, in a few launches, at the start of the first pass of each step. The weights are what the
model holds: whatever does not go through the flat path reads them, and never a copy.

torch does not tell whether a weight has changed: its fused optimizer and a replayed CUDA graph leave the version as it
was. So every pass renews the copies of what trains, but those that are told that no weight has changed since the last
one: the further passes of a step that accumulates. Copies of frozen weights are renewed when the version changes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tunesmith.compat import copy_many
from tunesmith.fast.device import Device


class Copy:
    """The weights, one below the other, in another type. Made when it is first read, so that a layer's copy is made
    where the layer runs. rows: of the buffer; those behind the weights are zero."""

    def __init__(self, weights: Sequence[Tensor], dtype: torch.dtype, rows: int | None = None) -> None:
        self.weights, self.dtype = tuple(weights), dtype
        self._num_rows = sum(len(weight) for weight in weights)
        self._rows = rows or self._num_rows
        self._buffer: Tensor | None = None
        self._versions: list[int] = []

    @property
    def buffer(self) -> Tensor:
        """The copy, [rows, ...]."""
        if self._buffer is None:
            like = self.weights[0]
            self._buffer = like.new_empty(self._rows, *like.shape[1:], dtype=self.dtype)
            if self._rows > self._num_rows:
                self._buffer[self._num_rows :].zero_()
            _write([(self, range(len(self.weights)))])
        return self._buffer

    @property
    def exists(self) -> bool:
        return self._buffer is not None

    @property
    def parts(self) -> Sequence[Tensor]:
        """The buffer's rows of each weight."""
        parts: Sequence[Tensor] = self.buffer[: self._num_rows].split([len(weight) for weight in self.weights])
        return parts

    def behind(self, *, weights_changed: bool) -> list[int]:
        """Numbers of the weights that have, or may have, changed since they were copied."""
        return [
            number
            for number, (weight, version) in enumerate(zip(self.weights, self._versions, strict=True))
            if (weights_changed and weight.requires_grad) or weight._version != version
        ]

    def written(self) -> None:
        """The parts are what the weights are now."""
        self._versions = [weight._version for weight in self.weights]

    def is_of(self, weights: Sequence[Tensor], dtype: torch.dtype) -> bool:
        """Whether this is a copy of these very weights."""
        return (
            self.dtype == dtype
            and len(weights) == len(self.weights)
            and all(weight is mine for weight, mine in zip(weights, self.weights, strict=True))
        )


class Shadow:
    """All copies of one model."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._copies: list[Copy] = []

    def copy(self, weights: Sequence[Tensor], dtype: torch.dtype, rows: int | None = None) -> Copy:
        """A new copy, renewed from its first use on."""
        made = Copy(weights, dtype, rows)
        self._copies.append(made)
        return made

    def renew(self, *, weights_changed: bool = True) -> None:
        """Write the copies of the weights that may have changed since the last pass."""
        _write([(copy, copy.behind(weights_changed=weights_changed)) for copy in self._copies if copy.exists])

    def clear(self) -> None:
        """Forget all copies."""
        self._copies.clear()


@torch.no_grad()
def _write(copies: Sequence[tuple[Copy, Sequence[int]]]) -> None:
    """Copy the weights of these numbers, all in as few launches as torch's kernel takes."""
    by_type: dict[tuple[torch.dtype, torch.dtype], tuple[list[Tensor], list[Tensor]]] = {}
    for copy, numbers in copies:
        all_parts = copy.parts
        for number in numbers:
            weight = copy.weights[number]
            parts, weights = by_type.setdefault((copy.dtype, weight.dtype), ([], []))
            parts.append(all_parts[number])
            weights.append(weight.detach())
        copy.written()
    for parts, weights in by_type.values():
        copy_many(parts, weights)
