"""What this machine has: devices, memory, cores. Container limits count, not what the host has."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from tunesmith.compat import onednn_has_bf16
from tunesmith.machine import driver

CGROUP = Path("/sys/fs/cgroup")
MUCH_FASTER = 1.4
"""What conversions between the types cost must be won back."""


@dataclass(frozen=True)
class Machine:
    """Devices and memory that a run may use."""

    device: Literal["cpu", "cuda"]
    num_devices: int
    """GPUs that are visible; 1 on a machine without."""
    name: str
    """Of GPU 0, or of the processor."""
    memory_bytes: int
    """Of one GPU; of the machine when it has none."""
    memory_free_bytes: int
    """Free now beside this process's CUDA context, on the fullest visible GPU; free RAM on a machine without."""
    ram_bytes: int
    ram_free_bytes: int
    num_cores: int
    """Processor cores that this process may use."""
    supports_bf16: bool
    """Whether bf16 is a native type of the GPU, or was measured to be the faster one of the processor."""
    num_processes: int = 1
    """Training processes that a launcher (torchrun) started; 1 without one."""
    num_nodes: int = 1
    """Machines that they run on."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def detect_machine() -> Machine:
    """The machine this process runs on. Imports torch."""
    import torch

    ram_bytes, ram_free_bytes = _ram()
    num_processes = int(os.environ.get("WORLD_SIZE", "1"))
    num_nodes = max(1, num_processes // int(os.environ.get("LOCAL_WORLD_SIZE", str(num_processes))))
    if not torch.cuda.is_available():
        return Machine(
            device="cpu",
            num_devices=1,
            name=_processor_name(),
            memory_bytes=ram_bytes,
            memory_free_bytes=ram_free_bytes,
            ram_bytes=ram_bytes,
            ram_free_bytes=ram_free_bytes,
            num_cores=_num_cores(),
            supports_bf16=processor_prefers_bf16(),
            num_processes=num_processes,
            num_nodes=num_nodes,
        )
    num_devices = torch.cuda.device_count()
    totals = [torch.cuda.get_device_properties(index).total_memory for index in range(num_devices)]
    return Machine(
        device="cuda",
        num_devices=num_devices,
        name=torch.cuda.get_device_name(0),
        memory_bytes=min(totals),
        memory_free_bytes=min(_gpu_free_bytes(index) for index in range(num_devices)),
        ram_bytes=ram_bytes,
        ram_free_bytes=ram_free_bytes,
        num_cores=_num_cores(),
        supports_bf16=torch.cuda.is_bf16_supported(including_emulation=False),
        num_processes=num_processes,
        num_nodes=num_nodes,
    )


def _gpu_free_bytes(index: int) -> int:
    """Asked of the driver as long as this process holds nothing there: to ask CUDA takes memory from a run beside."""
    import torch

    told = None
    if not driver.is_awake() and not torch.cuda.memory_reserved(index):
        told = driver.free_bytes(str(torch.cuda.get_device_properties(index).uuid))
    return torch.cuda.mem_get_info(index)[0] if told is None else max(0, told - driver.CONTEXT_BYTES)


@functools.cache
def processor_prefers_bf16() -> bool:
    """Whether this processor multiplies bf16 matrices much faster than fp32 ones. Measured, in about 0.1 s.

    There is little between: with instructions for bf16 (AVX512-BF16, AMX) it is 2x and more, without them half.
    """
    import torch

    def seconds(dtype: torch.dtype) -> float:
        left, right = torch.ones(512, 768, dtype=dtype), torch.ones(768, 2048, dtype=dtype)
        return best_seconds(lambda: left @ right, repeats=5)

    if not onednn_has_bf16():
        return False
    return seconds(torch.float32) > MUCH_FASTER * seconds(torch.bfloat16)


def best_seconds(run: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of some runs, after one that warms up."""
    run()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return max(min(seconds), 1e-9)


def _num_cores() -> int:
    """Cores of the affinity mask, cut by the quota of a version 2 control group."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (CGROUP / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, round(int(quota) / int(period))))


def _ram() -> tuple[int, int]:
    """Total and available bytes, cut by the limit of a version 2 control group."""
    memory = psutil.virtual_memory()
    total, free = int(memory.total), int(memory.available)
    try:
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
        cached = _cgroup_file_cache()
    except (OSError, ValueError):
        return total, free
    return min(total, limit), max(0, min(free, limit - used + cached))


def _cgroup_file_cache() -> int:
    """Bytes of inactive file cache, which the kernel gives back before it kills."""
    for line in (CGROUP / "memory.stat").read_text().splitlines():
        name, value = line.split()
        if name == "inactive_file":
            return int(value)
    return 0


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()}, {_num_cores()} cores"
    except OSError:
        pass
    return f"CPU, {_num_cores()} cores"
