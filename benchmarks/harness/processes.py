"""Measurements in processes of their own: one that crashes, hangs or runs out of memory is a row with its reason.

A process is forked from one that holds the libraries, or started anew where that cannot be. It loads what else it
needs while another one measures, and begins when told to.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

Row = dict[str, Any]
AHEAD = 3
"""Processes that load while one measures."""
GRACE = 1.5
"""A task may take so many times its estimate, and SLACK_SECONDS more, before it is ended."""
SLACK_SECONDS = 10.0
LOG_CHARACTERS = 4000
_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Task:
    """One measurement: `call(*arguments)`, a function of a module, yields rows as they come."""

    name: str
    call: Callable[..., Iterator[Row]]
    arguments: tuple[Any, ...] = ()
    seconds: float = 10.0
    """Estimate, from the moment that it is told to begin."""
    gigabytes: float = 0.0
    """Memory of the device that it takes beside others."""
    imports: tuple[str, ...] = ()
    """Modules that are loaded before it is told to begin."""


class Child:
    """The process of a task. It waits until `go`."""

    def __init__(self, task: Task, folder: Path, method: str) -> None:
        self.task, self.rows = task, list[Row]()
        plain = task.name.replace("/", "-").replace(" ", "-")
        self._lines, self.log = folder / f"{plain}.jsonl", folder / f"{plain}.log"
        self._read = 0
        context: Any = get_context(method)
        receiver, self._go = context.Pipe(duplex=False)
        self._process = context.Process(target=_perform, args=(task, self._lines, self.log, receiver), daemon=True)
        self._process.start()
        receiver.close()

    def go(self) -> None:
        self.begun = time.monotonic()
        with contextlib.suppress(OSError):  # it died while it loaded
            self._go.send(True)

    def look(self) -> list[Row]:
        """Rows that came since the last look; the last one says what went wrong, where something did."""
        alive = self._process.is_alive()
        found = self._new_rows()
        if not alive and self._process.exitcode and not any(row.get("failed") for row in self.rows):
            self.rows.append(row := {"failed": self._reason()})
            found.append(row)
        return found

    @property
    def is_over(self) -> bool:
        return not self._process.is_alive()

    def end(self, reason: str) -> Row:
        """Kill it, and whatever it started."""
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.join()
        self.rows.append(row := {"failed": reason})
        return row

    def _new_rows(self) -> list[Row]:
        if not self._lines.is_file():
            return []
        with self._lines.open(encoding="utf-8") as file:
            file.seek(self._read)
            text = file.read()
        whole = text[: text.rfind("\n") + 1]
        self._read += len(whole.encode())
        found = [json.loads(line) for line in whole.splitlines()]
        self.rows += found
        return found

    def last_words(self) -> str:
        """The end of what it printed."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-LOG_CHARACTERS:] if self.log.is_file() else ""

    def _reason(self) -> str:
        code = self._process.exitcode
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        last = next((line.strip() for line in reversed(self.last_words().split("\n")) if line.strip()), "nothing said")
        return f"died of {how}: {last[:200]}"


def _perform(task: Task, lines: Path, log: Path, receiver: Any) -> None:
    """In the child: load, wait, measure."""
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = sys.stderr = os.fdopen(descriptor, "w", buffering=1)
    for name in task.imports:
        with contextlib.suppress(ImportError):  # the task says what it lacks
            importlib.import_module(name)
    receiver.recv()
    code = 0
    with lines.open("a", encoding="utf-8") as out:
        try:
            for row in task.call(*task.arguments):
                print(json.dumps(row), file=out, flush=True)
        except BaseException as error:
            traceback.print_exc()
            print(json.dumps({"failed": describe(error)}), file=out, flush=True)
            code = 1
    os._exit(code)  # at once: what libraries do at exit is not measured


def describe(error: BaseException) -> str:
    """An error in one line."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first[:200]}"


@dataclass
class Runner:
    """Runs tasks within a budget of seconds, counted from `begun`, and hands each row on as it comes."""

    folder: Path
    on_row: Callable[[Task, Row], None]
    budget: float
    method: str = "fork"
    slack: float = SLACK_SECONDS
    begun: float = field(default_factory=time.monotonic)
    left_out: list[str] = field(default_factory=list)

    def seconds_left(self) -> float:
        return self.budget - (time.monotonic() - self.begun)

    def one_by_one(self, tasks: Sequence[Task], *, reserve: float = 0.0) -> None:
        """Each alone on the device, the most important first. `reserve`: seconds that others will need."""
        waiting = list(tasks)
        children: list[Child] = []
        try:
            while waiting or children:
                while waiting and len(children) <= AHEAD:
                    children.append(self._start(waiting.pop(0)))
                child = children.pop(0)
                if child.task.seconds > self.seconds_left() - reserve:
                    child.end("left out")
                    self.left_out.append(child.task.name)
                else:
                    self._follow(child, reserve)
        finally:
            self._end(children)

    def side_by_side(self, tasks: Sequence[Task], *, gigabytes: float, workers: int) -> None:
        """As many at a time as have room on the device together; what takes longest begins."""
        waiting = sorted(tasks, key=lambda task: (-task.seconds, -task.gigabytes))
        running: list[Child] = []
        try:
            while waiting or running:
                for task in list(waiting):
                    used = sum(child.task.gigabytes for child in running)
                    if len(running) == workers:
                        break
                    if task.seconds > self.seconds_left():
                        waiting.remove(task)
                        self.left_out.append(task.name)
                    elif used + task.gigabytes <= gigabytes or not running:
                        waiting.remove(task)
                        running.append(child := self._start(task))
                        child.go()
                time.sleep(_POLL_SECONDS)
                running = [child for child in running if not self._is_done(child, 0.0)]
        finally:
            self._end(running)

    def _start(self, task: Task) -> Child:
        return Child(task, self.folder, self.method)

    def _follow(self, child: Child, reserve: float) -> None:
        child.go()
        while not self._is_done(child, reserve):
            time.sleep(_POLL_SECONDS)

    def _is_done(self, child: Child, reserve: float) -> bool:
        over = child.is_over
        for row in child.look():
            self.on_row(child.task, row | ({"log": child.last_words()} if row.get("failed") else {}))
        spent = time.monotonic() - child.begun
        if not over and (spent > GRACE * child.task.seconds + self.slack or self.seconds_left() < 0):
            self.on_row(child.task, child.end(f"ended after {spent:.0f} s") | {"log": child.last_words()})
            return True
        return over

    def _end(self, children: Sequence[Child]) -> None:
        for child in children:
            if not child.is_over:
                child.end("the benchmark ended")
