"""A batch of one size at fixed addresses: what a step that was recorded reads, whichever documents it is given."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tunesmith.fast.batches.layout import FlatBatch, Size


class FixedBatch:
    """One buffer on the device, filled by one copy a step; `flat` and `denominator` are views of it.

    While a step is recorded (`blind`), nothing is known of the lengths of single documents: what asks for them would be
    recorded with those of the batch at hand, and fails instead.
    """

    def __init__(self, size: Size, device: torch.device) -> None:
        rows = size.targets if size.targets < size.tokens else 0
        places = -(-(size.documents + 1) // 2)  # int32, in pairs
        self.size, self._parts = size, (size.tokens, size.tokens, size.tokens, rows, places, 1)
        self._buffer = torch.zeros(sum(self._parts), dtype=torch.int64, device=device)
        self.denominator = self._views(self._buffer)[-1]
        self.flat = self.blind = self._flat((), ())

    def load(self, batch: FlatBatch, denominator: float) -> None:
        """Take up a batch, on the CPU and filled up to this size. Nothing waits for the device."""
        assert batch.size == self.size
        host = torch.empty(len(self._buffer), dtype=torch.int64, pin_memory=self._buffer.is_cuda)
        ids, positions, targets, rows, places, last = self._views(host)
        ids.copy_(batch.input_ids)
        positions.copy_(batch.position_ids)
        targets.copy_(batch.targets)
        if batch.target_rows is not None:
            rows.copy_(batch.target_rows)
        places.copy_(batch.cu_seqlens)
        last.fill_(denominator)
        self._buffer.copy_(host, non_blocking=True)
        self.flat = self._flat(batch.lengths, batch.order)

    def _flat(self, lengths: tuple[int, ...], order: tuple[int, ...]) -> FlatBatch:
        ids, positions, targets, rows, places, _ = self._views(self._buffer)
        flat = FlatBatch(ids, positions, targets, lengths, places, self.size.targets, order, self.size)
        return flat if not len(rows) else replace(flat, _target_rows=rows)

    def _views(self, buffer: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        ids, positions, targets, rows, places, last = buffer.split(self._parts)
        return (
            ids,
            positions,
            targets,
            rows,
            places.view(torch.int32)[: self.size.documents + 1],
            last.view(torch.float64)[0],
        )
