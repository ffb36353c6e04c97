"""How much memory a traced step takes on a device."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Literal

import psutil

from tunesmith.forecast.allocator import CachingAllocator
from tunesmith.forecast.tracing.trace import Log
from tunesmith.forecast.workspaces import NEW_BYTES, with_workspaces
from tunesmith.machine.driver import CONTEXT_BYTES
from tunesmith.run.artefacts import PredictedMemory

WORKSPACE_BYTES = 20 << 20
"""Buffers of the CPU's matrix library: measured resident memory was 17 to 21 MiB above what was allocated."""
FRAGMENTATION = {"fp32": 0.2, "bf16": 0.3, "fp16": 0.3}
"""Resident memory beyond what is allocated, by arithmetic, as a share of all but the weights: gaps in the C library's
heap, and what is taken inside a kernel.

Measured with glibc 2.36 and SmolLM2-135M: in fp32 13% over 14 steps of unlike sizes, reached at the fifth; in bf16 37%
over 22 steps, before oneDNN was spared most sizes of a product. 0 when MALLOC_MMAP_THRESHOLD_ is small, which gives
memory back at once and is slower.
"""


@dataclass(frozen=True)
class MemoryForecast:
    """Bytes. On a GPU `peak_bytes` is what nvidia-smi will show; on a CPU the largest resident set of the process."""

    device: Literal["cpu", "cuda"]
    peak_bytes: int
    allocated_bytes: int
    """Most that tensors take at a time: what is needed at least."""
    reserved_bytes: int
    """What the allocator takes for it, fragments included."""
    base_bytes: int
    """What is taken before any tensor: the CUDA context, or the process itself."""
    components: dict[str, int]
    """Of allocated_bytes: weights, gradients, optimizer, activations, logits, temporary."""
    phases: dict[str, int]
    """Most allocated in each phase."""

    def recorded(self) -> MemoryForecast:
        """Where steps are CUDA graphs: the most that a run can take, one whose steps have one size takes less.

        What a recorded step holds while it runs, gradients included, stays in a pool of its own. Steps of a size that
        is not recorded yet, and evaluation, run beside it. Not measured.
        """
        held = self.components["weights"] + self.components["optimizer"]
        pool = max(0, max(self.phases.get(name, 0) for name in ("forward", "backward")) - held)
        return replace(self, peak_bytes=self.peak_bytes + pool, reserved_bytes=self.reserved_bytes + pool)

    def record(self) -> PredictedMemory:
        return PredictedMemory(**asdict(self))


def sharded(
    memory: MemoryForecast, num_processes: int, largest_bytes: int, *, accumulates: bool = False
) -> MemoryForecast:
    """Of one of several processes that share weights, gradients and optimizer equally.

    largest_bytes: what is gathered at a time, which comes on top. accumulates: gradients stay whole until the last pass
    of a step. By arithmetic; the step is traced unsharded.
    """
    kept = {"weights", "optimizer"} if accumulates else {"weights", "gradients", "optimizer"}
    components = {name: size // num_processes if name in kept else size for name, size in memory.components.items()}
    saved = sum(memory.components.values()) - sum(components.values()) - largest_bytes
    components["temporary"] += largest_bytes
    return replace(
        memory,
        peak_bytes=memory.peak_bytes - saved,
        allocated_bytes=memory.allocated_bytes - saved,
        reserved_bytes=memory.reserved_bytes - saved,
        components=components,
    )


def forecast_memory(
    log: Log,
    device: Literal["cpu", "cuda"],
    *,
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    base_bytes: int | None = None,
    workspace_bytes: int = NEW_BYTES,
) -> MemoryForecast:
    """Memory of a traced step.

    base_bytes: of the process on a CPU, default this process; of the context on a GPU. workspace_bytes: what cuBLAS
    takes for a thread, by default on a Hopper.
    """
    if device == "cuda":
        log = with_workspaces(log, workspace_bytes)
    phases = {phase: size for phase, size in log.phase_peaks().items() if phase not in ("between", "weights", "state")}
    allocated, components = log.peak_bytes(), log.components_at_peak()
    if device == "cuda":
        base = CONTEXT_BYTES if base_bytes is None else base_bytes
        reserved = CachingAllocator().replay(log.events()).peak_reserved
    else:
        base = psutil.Process().memory_info().rss if base_bytes is None else base_bytes
        weights = components["weights"]
        reserved = weights + int((allocated - weights) * (1 + FRAGMENTATION[precision])) + WORKSPACE_BYTES
    return MemoryForecast(device, base + reserved, allocated, reserved, base, components, phases)
