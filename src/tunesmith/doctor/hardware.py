"""GPUs, what their arithmetic can do, how fast it is, cores and load, memory."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from tunesmith.machine import driver
from tunesmith.machine.detect import detect_machine
from tunesmith.machine.driver import nvml
from tunesmith.machine.threads import choose_waiting
from tunesmith.run.artefacts import Finding
from tunesmith.units import format_bytes

LEAST_MEMORY_BYTES = 1_000_000_000
SMALL_MEMORY_BYTES = 4_000_000_000
ROOM_TO_TRY_BYTES = 2_000_000_000
"""Of a GPU with less free, nothing is taken for a try: the context alone is half a gigabyte."""
BUSY_SHARE = 0.1  # of a GPU's memory in other hands, or of the cores' time
_BENCH_SECONDS = 1.0
_TRIAL_SIZE = 128
_COPY_BYTES = {"cpu": 64_000_000, "cuda": 2**30}
"""So much that no cache holds it, and on a GPU that starting the copy takes no part of its time."""
_COPIES = 20


@dataclass(frozen=True)
class Driver:
    """The NVIDIA driver, and the newest CUDA (major, minor) that it serves."""

    version: str
    cuda: tuple[int, int]


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver sees it; other_processes: (process id, bytes or None)."""

    index: int
    name: str
    memory_bytes: int
    free_bytes: int
    other_processes: tuple[tuple[int, int | None], ...]


def nvidia_driver() -> Driver | None:
    """The installed NVIDIA driver; None without one."""
    with nvml() as library:
        if library is None:
            return None
        number = library.nvmlSystemGetCudaDriverVersion_v2()
        return Driver(str(library.nvmlSystemGetDriverVersion()), (number // 1000, number % 1000 // 10))


def find_gpus() -> list[Gpu]:
    """Every NVIDIA GPU that the driver shows."""
    with nvml() as library:
        return [] if library is None else [_gpu(library, index) for index in range(library.nvmlDeviceGetCount())]


def _gpu(library: Any, index: int) -> Gpu:
    handle = library.nvmlDeviceGetHandleByIndex(index)
    memory = library.nvmlDeviceGetMemoryInfo(handle)
    try:
        running = [
            (int(process.pid), process.usedGpuMemory)
            for process in library.nvmlDeviceGetComputeRunningProcesses(handle)
            if process.pid != os.getpid()
        ]
    except library.NVMLError:  # some drivers do not tell, or not inside a container
        running = []
    return Gpu(index, str(library.nvmlDeviceGetName(handle)), int(memory.total), int(memory.free), tuple(running))


def check_gpus() -> Finding:
    """The GPUs, their memory and whether torch can use them."""
    gpus = find_gpus()
    if not gpus:
        return Finding(
            name="gpu",
            status="ok",
            found="none; small models train on the CPU, `tunesmith plan` says what a larger one needs",
        )
    lines, busy = [], False
    for gpu in gpus:
        line = f"{gpu.index}: {gpu.name}, {format_bytes(gpu.free_bytes)} of {format_bytes(gpu.memory_bytes)} free"
        if gpu.other_processes:
            line += f", other processes: {', '.join(_process(*process) for process in gpu.other_processes[:4])}"
        lines.append(line)
        busy |= gpu.memory_bytes - gpu.free_bytes > BUSY_SHARE * gpu.memory_bytes or bool(gpu.other_processes)
    numbers = {"gpus": [asdict(gpu) for gpu in gpus]}
    fix = "Wait for the others, or choose a free GPU with CUDA_VISIBLE_DEVICES." if busy else None
    return Finding(name="gpu", status="warn" if busy else "ok", found="\n".join(lines), fix=fix, numbers=numbers)


def _process(number: int, used: int | None) -> str:
    return f"{number} ({format_bytes(used)})" if used else str(number)


def check_arithmetic() -> Finding:
    """Which types the device computes fast, and whether packed documents find their attention kernel."""
    import torch

    machine = detect_machine()
    if machine.device == "cpu":
        kind = torch.backends.cpu.get_cpu_capability()
        kinds = "bf16 is the fast type for large models" if machine.supports_bf16 else "fp32 is the fast type"
        threads = "1 thread" if torch.get_num_threads() == 1 else f"{torch.get_num_threads()} threads"
        found = f"{machine.name} ({kind}), {threads}: {kinds}, attention over padded groups"
        return Finding(name="arithmetic", status="ok", found=found)
    major, minor = torch.cuda.get_device_capability(0)
    found = f"compute capability {major}.{minor}, {'bf16' if machine.supports_bf16 else 'no bf16: fp16 is used'}"
    free = driver.free_bytes(str(torch.cuda.get_device_properties(0).uuid))
    if free is not None and free < ROOM_TO_TRY_BYTES:
        told = f"{found}; packed attention was not tried: {format_bytes(free)} are free, which a run may need"
        return Finding(name="arithmetic", status="ok", found=told)
    broken = _varlen_problem()
    if broken is None:
        return Finding(name="arithmetic", status="ok", found=f"{found}, packed attention without padding")
    fix = "It is slower than it could be, and exact. A newer torch, or an Ampere or newer GPU, has the kernel."
    return Finding(name="arithmetic", status="warn", found=f"{found}, attention over padded groups ({broken})", fix=fix)


def _varlen_problem() -> str | None:
    """Why variable-length attention cannot be used; None when a tiny call gave finite numbers."""
    import torch

    try:
        from torch.nn.attention.varlen import varlen_attn

        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        states = torch.ones(6, 1, 64, dtype=dtype, device="cuda")
        bounds = torch.tensor([0, 2, 6], dtype=torch.int32, device="cuda")
        out: Any = varlen_attn(states, states, states, bounds, bounds, 4, 4, scale=0.1, window_size=(-1, 0))
        return None if bool(torch.isfinite(out).all()) else "it gives numbers that are not finite"
    except (ImportError, TypeError):
        return f"torch {torch.__version__} lacks it"
    except (RuntimeError, NotImplementedError) as error:
        return str(error).splitlines()[0][:120]


# ------------------------------------------------------------------------------------------------------------- speed


def check_speed(bench: bool) -> Finding:
    """Measured rates of matrix products and of memory, when asked for."""
    if not bench:
        return Finding(name="speed", status="ok", found="not measured; --bench does")
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = 4096 if device == "cuda" else 1024
    rates = {"fp32": matmul_rate(torch.float32, device, size)}
    rates["bf16"] = matmul_rate(torch.bfloat16, device, 2 * size if device == "cuda" else size)
    bandwidth = copy_rate(device)
    told = ", ".join(f"{name} {_flops(rate)}" for name, rate in rates.items())
    numbers = {"flops_per_second": rates, "bytes_per_second": bandwidth, "device": device}
    found = f"{device}: matrix products {told}; memory {format_bytes(bandwidth)}/s"
    return Finding(name="speed", status="ok", found=found, numbers=numbers)


def _flops(rate: float) -> str:
    return f"{rate / 1e12:.1f} TFLOP/s" if rate >= 1e12 else f"{rate / 1e9:.0f} GFLOP/s"


def matmul_rate(dtype: Any, device: str, size: int) -> float:
    """Operations per second of a square matrix product, the median of about a second.

    A smaller one than `size` where a processor emulates the type: some take minutes for what others do in a second.
    """
    import torch

    def rate(side: int) -> float:
        left, right = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(2))
        return 2 * side**3 / _median_seconds(lambda: left @ right, device)

    if device == "cpu":
        few = rate(_TRIAL_SIZE)
        size = next((side for side in (size, size // 2, size // 4) if 2 * side**3 < few * _BENCH_SECONDS), _TRIAL_SIZE)
    return rate(size)


def copy_rate(device: str) -> float:
    """Bytes read and written per second by a copy within the device's memory.

    On a GPU timed by the GPU itself, over copies that follow each other; of a quarter of what is free, where that is
    less than a gigabyte.
    """
    import torch

    size = _COPY_BYTES[device]
    if device == "cuda":
        size = max(1, min(size, torch.cuda.mem_get_info()[0] // 4))
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    if device == "cuda":
        return 2 * size / _gpu_seconds(lambda: target.copy_(source))
    return 2 * size / _median_seconds(lambda: target.copy_(source), device)


def _gpu_seconds(call: Callable[[], Any]) -> float:
    """Seconds of one call between two time stamps of the GPU, after calls that warm up."""
    import torch

    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(2):
        call()
    begin.record()
    for _ in range(_COPIES):
        call()
    end.record()
    end.synchronize()
    milliseconds: float = begin.elapsed_time(end)
    return milliseconds / 1e3 / _COPIES


def _median_seconds(call: Callable[[], Any], device: str) -> float:
    import torch

    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < 3 or (time.perf_counter() - begin < _BENCH_SECONDS and len(times) < 200):
        start = time.perf_counter()
        call()
        wait()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


# -------------------------------------------------------------------------------------------------------- load, memory


def check_load() -> Finding:
    """Work of others on the cores; it slows training, and makes every timing wrong by as much."""
    import psutil

    cores = detect_machine().num_cores
    load = psutil.getloadavg()[0]  # Windows has none of its own
    waiting = choose_waiting()
    found = f"load {load:.1f} on {cores} cores, {waiting.how}"
    numbers = {"load_average": load, "cores": cores, "threads": waiting.how}
    if load > max(1.0, (1 + BUSY_SHARE) * cores):
        fix = "Training shares the cores and is slower by about as much; timings mean little until the load falls."
        return Finding(name="load", status="warn", found=f"busy: {found}", fix=fix, numbers=numbers)
    return Finding(name="load", status="ok", found=found, numbers=numbers)


def check_memory() -> Finding:
    """The free memory of the machine."""
    machine = detect_machine()
    found = f"{format_bytes(machine.ram_free_bytes)} of {format_bytes(machine.ram_bytes)} free"
    numbers = {"free_bytes": machine.ram_free_bytes, "total_bytes": machine.ram_bytes}
    if machine.ram_free_bytes < LEAST_MEMORY_BYTES:
        fix = (
            f"Expected at least {format_bytes(LEAST_MEMORY_BYTES)}: end other programs, or raise the container's limit."
        )
        return Finding(name="memory", status="failed", found=found, fix=fix, is_fatal=True, numbers=numbers)
    if machine.ram_free_bytes < SMALL_MEMORY_BYTES:
        fix = "Enough for the embedded model with LoRA; `tunesmith plan` says what a recipe needs."
        return Finding(name="memory", status="warn", found=found, fix=fix, numbers=numbers)
    return Finding(name="memory", status="ok", found=found, numbers=numbers)
