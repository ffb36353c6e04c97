"""What the device of a run does now, where the run is on this machine: GPUs through NVML, else processor and memory."""

from __future__ import annotations

import functools
import socket
from dataclasses import dataclass

import psutil

from tunesmith.run.standing import Standing
from tunesmith.units import format_bytes


@dataclass(frozen=True)
class Load:
    """One device, or one process; a value that the device does not tell is None."""

    name: str
    utilisation: float | None
    """Share of the time that it worked; of a processor, cores in use."""
    memory_bytes: int | None
    total_bytes: int | None
    celsius: int | None = None
    watts: float | None = None

    def describe(self) -> str:
        """`NVIDIA L4  97%  17.2 GB of 24.0 GB  61 °C  70 W`."""
        parts = [self.name]
        if self.utilisation is not None:
            parts.append(f"{self.utilisation:.0%}")
        if self.memory_bytes is not None:
            of = f" of {format_bytes(self.total_bytes)}" if self.total_bytes else ""
            parts.append(f"{format_bytes(self.memory_bytes)}{of}")
        if self.celsius is not None:
            parts.append(f"{self.celsius} °C")
        if self.watts is not None:
            parts.append(f"{self.watts:.0f} W")
        return "  ".join(parts)


def loads(found: Standing, on_gpu: bool) -> tuple[Load, ...]:
    """Of every GPU, or of the process; empty for a run that is elsewhere or has ended."""
    if not found.is_alive or found.pid is None or found.host != socket.gethostname():
        return ()
    return _gpus() if on_gpu else _process(found.pid)


@functools.lru_cache(maxsize=64)
def _process_of(pid: int) -> psutil.Process:
    """Kept between looks: it measures from one to the next."""
    return psutil.Process(pid)


def _process(pid: int) -> tuple[Load, ...]:
    try:
        process = _process_of(pid)
        busy = process.cpu_percent(interval=None) / 100  # since the last look at this process
        memory = int(process.memory_info().rss)
    except psutil.Error:
        return ()
    return (Load("processor", busy or None, memory, int(psutil.virtual_memory().total)),)


def _gpus() -> tuple[Load, ...]:
    """Through the driver's own library; nothing of CUDA is loaded."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no driver, no library, no permission: there is nothing to show
        return ()
    try:
        return tuple(_gpu(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError:
        return ()
    finally:
        pynvml.nvmlShutdown()


def _gpu(pynvml: object, index: int) -> Load:
    def ask(name: str, *arguments: object) -> object:
        try:
            return getattr(pynvml, name)(handle, *arguments)
        except Exception:  # cards leave out what they do not measure
            return None

    handle = getattr(pynvml, "nvmlDeviceGetHandleByIndex")(index)  # noqa: B009
    name, rates, memory = ask("nvmlDeviceGetName"), ask("nvmlDeviceGetUtilizationRates"), ask("nvmlDeviceGetMemoryInfo")
    celsius, milliwatts = ask("nvmlDeviceGetTemperature", 0), ask("nvmlDeviceGetPowerUsage")
    return Load(
        name.decode() if isinstance(name, bytes) else str(name or f"GPU {index}"),
        getattr(rates, "gpu", 0) / 100 if rates is not None else None,
        getattr(memory, "used", None),
        getattr(memory, "total", None),
        celsius if isinstance(celsius, int) else None,
        milliwatts / 1000 if isinstance(milliwatts, int) else None,
    )
