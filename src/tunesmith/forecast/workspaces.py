"""Workspaces of cuBLAS: memory that a matrix product takes of torch's allocator and never gives back.

One for each pair of handle and stream (aten/src/ATen/cuda/CublasHandlePool.cpp, getCUDABlasLtWorkspace among them:
cublasLt shares it unless TORCH_CUBLASLT_UNIFIED_WORKSPACE is 0). A thread has a handle of its own, and autograd runs
backward in its own thread: a step has two. Measured on an H200: full fine-tuning of five models took 68 to 88 MB more
than its tensors, where two workspaces are 67.1 MB.
"""

from __future__ import annotations

from tunesmith.forecast.tracing.trace import Event, Log, Segment

NEW_BYTES = 32 << 20
"""From Hopper (compute capability 9.0) on: parseChosenWorkspaceSize of CUDABlas.cpp. Releases of torch before 2.10 give
Blackwell what follows."""
OLD_BYTES = (2 * 4096 + 8 * 16) << 10
"""`:4096:2:16:8`, 8.1 MiB."""
ROCM_BYTES = 128 << 20
"""hipBLAS on gfx942, whose capability is 9.4."""


def workspace_bytes(capability: tuple[int, int]) -> int:
    """Size of one workspace on a GPU of this compute capability."""
    if capability == (9, 4):
        return ROCM_BYTES
    return NEW_BYTES if capability >= (9, 0) else OLD_BYTES


def with_workspaces(log: Log, num_bytes: int) -> Log:
    """The log with a workspace taken at the first product of the forward pass, and one at that of the backward pass."""
    last = max((event.storage for event in log.events()), default=0)
    wanted = {"forward": last + 1, "backward": last + 2}
    segments = []
    for part in log.segments:
        if part.phase in wanted and any(work.gemm is not None for work in part.work):
            taken = Event(wanted.pop(part.phase), num_bytes, True)
            part = Segment(part.phase, part.group, [taken, *part.events], part.work)
        segments.append(part)
    return Log(segments, log.labels, log.num_trained)
