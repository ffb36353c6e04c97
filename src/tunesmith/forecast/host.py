"""What the host takes to start a GPU's work: no step is shorter, however little the GPU has to do.

Kernels are started one after another while the GPU works; small ones end before the next is there. Measured beside one
H200 (torch 2.11, 16 cores; torch's profiler): steps of 1,056 tokens took 39.7 ms in GPT-Neo-125M (918 kernels, the GPU
busy for 9.5 ms) and 124.7 ms in SmolLM2-135M (3,615 kernels, 17.4 ms). By the kernels that are counted here that is 34
microseconds each, and 10.4 ms that no kernel explains. Where layers are fused there are fewer, and each takes
more Python: 41.0, 86.2 and 79.4 ms (GPT-Neo-125M, SmolLM2-135M, GPT-Neo-1.3B) for 409, 957 and 793 kernels of a pass,
88 microseconds each and 3.3 ms. Recorded, the host's part of those steps was 2.5 ms, and 0.6 and 2.3 ms in the driver.
Other hosts were not measured: half or twice as much is likely.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace

from tunesmith.forecast.roofline import Rates
from tunesmith.forecast.tracing.launches import clipping_launches, launches_of, many_launches
from tunesmith.forecast.tracing.step import Step
from tunesmith.forecast.tracing.trace import Log, Work

LAUNCH_SECONDS = 34e-6
"""To start one kernel, through torch's autograd and optimizer."""
STEP_SECONDS = 10.4e-3
"""Of a step, beside its kernels."""
FUSED_LAUNCH_SECONDS, FUSED_STEP_SECONDS = 88e-6, 3.3e-3
"""The same where layers are fused: a kernel of their passes, and the rest."""
REPLAY_SECONDS = 2e-6
"""To start a recorded kernel."""
RECORDED_STEP_SECONDS = 2.5e-3
"""Of a recorded step, beside its kernels: its batch, and what is written down of it."""
RECORDING_SECONDS = 0.2
"""To record a size, once. Assumed."""
SIZES = 2
"""Sizes that a run has, mostly one to three: fast/batches/sizes.py."""


@dataclass(frozen=True)
class HostTime:
    """Seconds of the host: of a step, of each of its passes of up to `pass_tokens`, and once a run."""

    step_seconds: float = 0.0
    pass_seconds: float = 0.0
    pass_tokens: int = 1
    once_seconds: float = 0.0
    wait_seconds: float = 0.0
    """For which neither covers the other: the GPU waits in one part of a step, and is behind the host in another."""

    def of(self, num_tokens: float) -> float:
        """Seconds of a step of so many tokens."""
        return self.step_seconds + self.pass_seconds * math.ceil(num_tokens / self.pass_tokens)

    def scaled(self, factor: float) -> HostTime:
        return replace(
            self,
            step_seconds=self.step_seconds * factor,
            pass_seconds=self.pass_seconds * factor,
            wait_seconds=self.wait_seconds * factor,
        )


def host_time(log: Log, step: Step, rates: Rates, *, recorded: bool = False) -> HostTime:
    """Of a traced step; nothing on a CPU, whose work is the host's. recorded: passes and updates are CUDA graphs."""
    if step.device == "cpu":
        return HostTime()
    launches = step.runs_each_pass * launches_of(log.work("forward", "backward"))
    if recorded:
        replayed = RECORDED_STEP_SECONDS + REPLAY_SECONDS * (launches + update_launches(log))
        return HostTime(replayed, 0.0, max(1, step.num_tokens), SIZES * RECORDING_SECONDS)
    passes = 2 if step.accumulates else 1
    a_launch, a_step = (FUSED_LAUNCH_SECONDS, FUSED_STEP_SECONDS) if step.fused else (LAUNCH_SECONDS, STEP_SECONDS)
    update = a_step + LAUNCH_SECONDS * update_launches(log)
    update_device = rates.seconds(log.work("clip", "optimizer"))
    parts = [*step.runs_each_pass * _parts(log, rates, a_launch), (update, update_device)]
    busy = max(sum(host for host, _ in parts), sum(device for _, device in parts))
    return HostTime(
        step_seconds=update,
        pass_seconds=a_launch * launches / passes,
        pass_tokens=max(1, step.num_tokens),
        wait_seconds=_pipelined(parts) - busy,
    )


def _parts(log: Log, rates: Rates, a_launch: float) -> list[tuple[float, float]]:
    """Seconds of host and GPU for each stretch of the passes, in order."""
    found = []
    for segment in log.segments:
        if segment.phase in ("forward", "backward") and segment.work:
            work = Counter(segment.work)
            found.append((a_launch * launches_of(work), rates.seconds(work)))
    return found


def _pipelined(parts: list[tuple[float, float]]) -> float:
    """When the GPU is done: it starts a stretch after the host and the one before, and ends no sooner than the host."""
    host = device = 0.0
    for of_host, of_device in parts:
        device = max(max(device, host) + of_device, host + of_host)
        host += of_host
    return device


def update_launches(log: Log) -> int:
    """Kernels of clipping and of the optimizer. A trace takes one tensor at a time where a GPU takes many."""
    norms = log.work("clip")
    sizes = [
        item.num_bytes // item.dtype.itemsize for item, calls in norms.items() for _ in range(calls) if _is_norm(item)
    ]
    own = Counter({item: calls for item, calls in log.work("optimizer").items() if not _is_fused(item)})
    fused = len(own) < len(log.work("optimizer"))
    return clipping_launches(sizes) + launches_of(own) + (many_launches("_fused_adamw_", sizes) if fused else 0)


def _is_norm(item: Work) -> bool:
    return item.name == "linalg_vector_norm"


def _is_fused(item: Work) -> bool:
    """torch's fused AdamW, and the counting of its steps."""
    return item.name in ("_fused_adamw_", "_foreach_add_")
