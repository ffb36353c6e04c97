"""The driver is asked for free memory, and CUDA only where it does not tell."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from tunesmith.machine import driver


class NVMLError(Exception):
    pass


def library(known: dict[str, int]) -> Any:
    def handle(uuid: str) -> str:
        if uuid not in known:
            raise NVMLError("not found")
        return uuid

    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetHandleByUUID=handle,
        nvmlDeviceGetMemoryInfo=lambda uuid: SimpleNamespace(free=known[uuid]),
    )


def test_a_gpu_is_found_by_the_name_that_torch_or_the_driver_gives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", library({"GPU-ab-1": 7}))
    assert driver.free_bytes("ab-1") == driver.free_bytes("GPU-ab-1") == 7
    assert driver.free_bytes("ab-2") is None


def test_without_a_driver_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise NVMLError("no driver")

    broken = library({"GPU-1": 1})
    broken.nvmlInit = fail
    monkeypatch.setitem(sys.modules, "pynvml", broken)
    assert driver.free_bytes("1") is None


@pytest.mark.gpu
def test_looking_at_the_machine_takes_nothing_of_a_gpu() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    program = (
        "import torch; from tunesmith.machine import driver; from tunesmith.machine.detect import detect_machine\n"
        "uuid = str(torch.cuda.get_device_properties(0).uuid)\n"
        "before = driver.free_bytes(uuid); detect_machine(); print(before - driver.free_bytes(uuid))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 50_000_000


def test_a_machine_without_a_gpu_is_not_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise OSError(name)

    monkeypatch.setattr(driver, "_waking", [])
    monkeypatch.setattr(driver.ctypes, "CDLL", absent)
    assert not driver.is_awake()
    driver.wake()
    driver.wake()
    assert driver.is_awake()
    assert len(driver._waking) == 1


def test_the_context_is_made_once_on_the_gpu_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def device_get(device: Any, index: int) -> int:
        asked.append(index)
        return 0

    cuda = SimpleNamespace(cuInit=lambda flags: 0, cuDeviceGet=device_get, cuDevicePrimaryCtxRetain=lambda *_: 0)
    monkeypatch.setattr(driver, "_waking", [])
    monkeypatch.setattr(driver.ctypes, "CDLL", lambda name: cuda)
    monkeypatch.setenv("LOCAL_RANK", "3")
    driver.wake()
    driver.wake()
    assert driver.is_awake()
    assert asked == [3]
