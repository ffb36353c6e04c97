"""What several processes add to a step: their shares of it, and the exchanges that arithmetic does not hide.

DDP sums gradients in buckets while backward still makes others; only what is left when backward ends is waited for.
FSDP2 gathers each layer's weights before it runs, forward and backward, one layer ahead, and sums each layer's
gradients into shards in the last backward of a step. What does not fit under the arithmetic beside it is waited for.
After every step all agree on what comes next: one small exchange. By arithmetic; not measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tunesmith.forecast.memory import MemoryForecast
    from tunesmith.machine.interconnect import Network

BUCKET_BYTES = 25 << 20
"""torch's DistributedDataParallel, bucket_cap_mb."""
BACKWARD_SHARE = 2 / 3
"""Of a pass's arithmetic; each product of forward has two in backward."""
BACKWARD_SHARE_CHECKPOINTED = 3 / 4


@dataclass(frozen=True)
class Exchange:
    """Seconds of one of several processes; the default is one process alone."""

    num_processes: int = 1
    share: float = 1.0
    """Of a step's tokens, those of the fullest process."""
    takes_turns: int = 1
    """Processes that share one processor."""
    pass_tokens: int = 1
    """Tokens of one forward and backward pass."""
    backward_share: float = BACKWARD_SHARE
    num_parts: int = 1
    """Buckets, or layers."""
    gather_seconds: float = 0.0
    """All weights made whole once; sharded passes do it twice."""
    sum_seconds: float = 0.0
    """All gradients summed, once a step."""
    agree_seconds: float = 0.0
    sharded: bool = False

    def own(self, num_tokens: float) -> float:
        """Tokens of a step of `num_tokens` that the fullest process takes."""
        return num_tokens * self.share

    def link_seconds(self, num_tokens: float) -> float:
        """Seconds in which the links of one process work during a step, hidden or not."""
        return 2 * self.gather_seconds * self._passes(num_tokens) + self.sum_seconds + self.agree_seconds

    def waited_seconds(self, num_tokens: float, busy_seconds: float) -> float:
        """Seconds of a step in which a process does nothing but exchange. busy_seconds: of its passes."""
        if self.num_processes == 1:
            return 0.0
        passes = self._passes(num_tokens)
        forward = busy_seconds / passes * (1 - self.backward_share)
        backward = busy_seconds / passes * self.backward_share
        waited = self._left(self.gather_seconds + self.sum_seconds, backward) + self.agree_seconds
        if self.sharded:
            waited += passes * self._left(self.gather_seconds, forward)
            waited += (passes - 1) * self._left(self.gather_seconds, backward)
        return waited

    def _left(self, seconds: float, beside: float) -> float:
        """What of an exchange in equal parts is not hidden: the part that nothing runs beside, or what is too long."""
        return max(seconds / self.num_parts, seconds - beside * (1 - 1 / self.num_parts))

    def _passes(self, num_tokens: float) -> int:
        return max(1, math.ceil(self.own(num_tokens) / self.pass_tokens))


@dataclass(frozen=True)
class Exchanged:
    """What a choice exchanges: bytes of all weights as they are held, of the gradients, and the number of layers."""

    weight_bytes: int
    gradient_bytes: int
    num_layers: int


def exchange_of(
    network: Network | None, what: Exchanged, *, sharded: bool, share: float, pass_tokens: int, checkpointed: bool
) -> Exchange:
    """Of one of the processes that a network joins; nothing without one."""
    if network is None or network.num_processes == 1:
        return Exchange()
    common = Exchange(
        num_processes=network.num_processes,
        share=share,
        takes_turns=network.takes_turns,
        pass_tokens=pass_tokens,
        backward_share=BACKWARD_SHARE_CHECKPOINTED if checkpointed else BACKWARD_SHARE,
        agree_seconds=network.reduce_seconds(16),
        sharded=sharded,
    )
    parts = what.num_layers + 1 if sharded else max(1, math.ceil(what.gradient_bytes / BUCKET_BYTES))
    if not sharded:
        return replace(common, num_parts=parts, sum_seconds=parts * network.reduce_seconds(what.gradient_bytes / parts))
    return replace(
        common,
        num_parts=parts,
        gather_seconds=parts * network.gather_seconds(what.weight_bytes / parts),
        sum_seconds=parts * network.gather_seconds(what.gradient_bytes / parts),
    )


def with_buckets(memory: MemoryForecast, gradient_bytes: int) -> MemoryForecast:
    """Of one of several whole copies: gradients lie in the buckets that DDP sums, which are there all the time."""
    more = max(0, gradient_bytes - memory.components["gradients"])
    return replace(
        memory,
        peak_bytes=memory.peak_bytes + more,
        allocated_bytes=memory.allocated_bytes + more,
        reserved_bytes=memory.reserved_bytes + more,
        components={**memory.components, "gradients": memory.components["gradients"] + more},
    )
