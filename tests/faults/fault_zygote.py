"""A process that has imported everything once and forks one child a case.

A case is a command line of tunesmith, or a function of `fault_arms`, run under an injected fault. The child is a
process of its own: it can be killed, its exit status is what a shell would see, and nothing of it reaches the next
case. Requests and answers are JSON lines; several children may run at once.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


@dataclass
class Child:
    """One case. `code` is its exit code as a shell shows it (137 when killed), None while it runs."""

    zygote: Zygote
    pid: int
    log: Path
    code: int | None = None

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait(self, seconds: float = 300.0) -> int | None:
        """The exit code, or None when the child still runs after `seconds`."""
        deadline = time.monotonic() + seconds
        while self.code is None and self.zygote.read(deadline - time.monotonic()):
            pass
        return self.code

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.code is None:
            os.kill(self.pid, number)


@dataclass
class Zygote:
    """The parent's side."""

    folder: Path
    children: dict[int, Child] = field(default_factory=dict)
    num_started: int = 0

    def __post_init__(self) -> None:
        with (self.folder / "zygote.log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "ignore", str(HERE / "fault_zygote.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self._buffer = b""
        self._answers: list[dict[str, Any]] = []
        if self._next(120.0) is None:
            self.close()
            raise RuntimeError((self.folder / "zygote.log").read_text())

    def start(self, name: str, fault: dict[str, Any] | None = None, **options: Any) -> Child:
        """Fork a child that calls `fault_arms.<name>(**options)` with `fault` injected before."""
        self.num_started += 1
        log = self.folder / f"case-{self.num_started}.log"
        request = {"name": name, "fault": fault, "options": options, "log": str(log)}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        while True:
            answer = self._next(30.0)
            if answer is None:
                raise RuntimeError((self.folder / "zygote.log").read_text())
            if answer["code"] is None:
                child = Child(self, answer["pid"], log)
                self.children[child.pid] = child
                return child
            self._ended(answer)

    def read(self, seconds: float) -> bool:
        """Take one answer. False when none came within `seconds`."""
        answer = self._next(seconds)
        if answer is not None:
            self._ended(answer)
        return answer is not None

    def close(self) -> None:
        for child in self.children.values():
            child.kill()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def _ended(self, answer: dict[str, Any]) -> None:
        self.children.pop(answer["pid"]).code = answer["code"]

    def _next(self, seconds: float) -> dict[str, Any] | None:
        assert self.process.stdout is not None
        deadline = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                return None
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer


def serve(functions: dict[str, Callable[..., Any]], inject: Callable[[dict[str, Any]], None]) -> None:
    """The child's side: answer requests until standard input ends."""
    answers = os.dup(1)
    os.dup2(2, 1)

    def answer(pid: int, code: int | None) -> None:
        os.write(answers, json.dumps({"pid": pid, "code": code}).encode() + b"\n")

    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    gc.collect()
    gc.freeze()  # a child neither scans nor copies what was imported before it
    answer(0, None)
    buffer = b""
    while True:
        ready = select.select([0, reader], [], [])[0]
        if reader in ready:
            os.read(reader, 4096)
        while (ended := _ended_child()) is not None:
            answer(*ended)
        if 0 not in ready:
            continue
        data = os.read(0, 65536)
        if not data:
            return
        buffer += data
        while b"\n" in buffer:
            line, _, buffer = buffer.partition(b"\n")
            request = json.loads(line)
            pid = os.fork()
            if pid == 0:
                for descriptor in (answers, reader, writer):
                    os.close(descriptor)
                _run_child(functions, inject, request)
            answer(pid, None)


def _ended_child() -> tuple[int, int] | None:
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    if pid == 0:
        return None
    return pid, 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _run_child(functions: dict[str, Callable[..., Any]], inject: Any, request: dict[str, Any]) -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = 1
    try:
        if request["fault"]:
            inject(request["fault"])
        code = functions[request["name"]](**request["options"]) or 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    import fault_arms
    import fault_injection

    fault_arms.import_everything()
    serve(fault_arms.ARMS, fault_injection.inject)
