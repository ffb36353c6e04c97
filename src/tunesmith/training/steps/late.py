"""Numbers of the device that are read when they are there, so that no step waits for the host."""

from __future__ import annotations

import torch
from torch import Tensor


class Late:
    """A copy of a tensor that is on its way to the host, in the order of the stream's work."""

    def __init__(self, values: Tensor) -> None:
        self._values = values.detach().to("cpu", non_blocking=True)  # into pinned memory; it may be read too early
        self._arrived: torch.cuda.Event | None = None
        if values.is_cuda:
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> list[float]:
        """The values, flat; waits until they are there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        found: list[float] = self._values.flatten().tolist()
        return found
