"""A run as it stands, read from its directory. Nothing here is written, so any number of watchers is safe."""

from __future__ import annotations

import json
import mmap
import socket
import time
from dataclasses import dataclass, field, replace
from typing import Literal

from pydantic import ValidationError

from tunesmith.run.artefacts import MetricsLine, Plan, Result, SamplesLine
from tunesmith.run.directory import LOG, METRICS, SAMPLES, RunDir
from tunesmith.run.standing import SILENT_SECONDS, Standing, standing_of

TAIL_BYTES = 16_000
MANY_BYTES = 2_000_000
_EVALUATION = b'"eval_loss"'
MAX_POINTS = 4_000
"""Of a curve; a longer one is thinned to every second point."""
Point = tuple[int, float]


@dataclass
class Curve:
    """Lines of metrics.jsonl that hold a loss, thinned as they grow: a screen has some hundred columns."""

    key: Literal["loss", "eval_loss"]
    lines: list[MetricsLine] = field(default_factory=list)
    _every: int = 1
    _seen: int = 0

    @property
    def points(self) -> list[Point]:
        """(step, loss)."""
        return [(line.step, getattr(line, self.key)) for line in self.lines]

    def add(self, line: MetricsLine) -> None:
        self._seen += 1
        if self._seen % self._every == 0:
            self.lines.append(line)
        if len(self.lines) > MAX_POINTS:
            self.lines, self._every = self.lines[::2], 2 * self._every


@dataclass
class View:
    """One run. `refresh` reads what is new; what it cannot read it leaves as it was."""

    run_dir: RunDir
    standing: Standing
    plan: Plan | None = None
    result: Result | None = None
    train: Curve = field(default_factory=lambda: Curve("loss"))
    held_out: Curve = field(default_factory=lambda: Curve("eval_loss"))
    base_loss: float | None = None
    line: MetricsLine | None = None
    """The last training step that was logged."""
    log: tuple[str, ...] = ()
    """The last lines of log.txt."""
    samples: SamplesLine | None = None
    """What it wrote at its last evaluation."""
    _place: int = 0
    _seen: dict[str, object] = field(default_factory=dict)
    _heard: float | None = None

    @classmethod
    def of(cls, run_dir: RunDir) -> View:
        view = cls(run_dir, standing_of(run_dir, None, None))
        view.refresh()
        return view

    @property
    def name(self) -> str:
        return self.run_dir.path.resolve().name

    @property
    def seconds(self) -> float:
        """Of the run so far: until now while it lives, until its last line afterwards."""
        told = self.line.time if self.line is not None else 0.0
        if self.standing.is_alive and self.standing.updated is not None and self.line is not None:
            since = time.time() - self.standing.updated  # clocks jump, and differ between machines
            return told + min(max(0.0, since), SILENT_SECONDS)
        return self.result.total_seconds if self.result is not None else told

    def refresh(self) -> None:
        """Read what was written since the last time."""
        if self._is_new(Plan.FILE):
            self.plan = self.run_dir.find(Plan)
        if self._is_new(Result.FILE):
            self.result = self.run_dir.find(Result)
        self.standing = self._believed(standing_of(self.run_dir, self.plan, self.result))
        if self._is_new(METRICS):
            self._read_metrics()
        if self._is_new(LOG):
            self.log = _last_lines(self.run_dir, LOG)
        if self._is_new(SAMPLES):
            self.samples = self._last_samples()

    def _believed(self, found: Standing) -> Standing:
        """A run on another machine that was heard of between two looks lives, whatever its clock says."""
        now = time.monotonic()
        if found.updated != self.standing.updated:
            self._heard = now
        elsewhere = found.host is not None and found.host != socket.gethostname()
        if found.state == "crashed" and elsewhere and self._heard is not None and now - self._heard < SILENT_SECONDS:
            return replace(found, state="running", why="", resume=None)
        return found

    def _is_new(self, name: str) -> bool:
        """Whether a file is another one than at the last look, or was written to since."""
        try:
            found = self.run_dir.file(name).stat()
        except OSError:
            state = None
        else:
            state = (found.st_ino, found.st_size, found.st_mtime_ns)
        before, self._seen[name] = self._seen.get(name, ()), state
        return state != before

    def _read_metrics(self) -> None:
        path = self.run_dir.file(METRICS)
        try:
            with path.open("rb") as file:
                if file.seek(0, 2) < self._place:  # the run was begun again, or resumed from an earlier step
                    self._place, self.train, self.held_out, self.line = 0, Curve("loss"), Curve("eval_loss"), None
                size = file.tell()
                if size - self._place > MANY_BYTES:
                    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                        whole = data.rfind(b"\n") + 1
                        for begin, end in _some_lines(data, self._place, whole):
                            self._take(data[begin:end])
                    self._place = whole
                    return
                file.seek(self._place)
                text = file.read(size - self._place)
        except (OSError, ValueError):  # an empty file cannot be mapped
            return
        text = text[: text.rfind(b"\n") + 1]  # the rest is still being written
        self._place += len(text)
        for line in text.splitlines():
            self._take(line)

    def _take(self, text: bytes) -> None:
        """A line that cannot be used is passed over."""
        try:
            line = MetricsLine.model_validate(json.loads(text))
        except (ValueError, ValidationError):
            return
        if line.loss is not None:
            self.train.add(line)
            self.line = line
        if line.eval_loss is not None:
            self.held_out.add(line)
            if line.step == 0:
                self.base_loss = line.eval_loss

    def _last_samples(self) -> SamplesLine | None:
        for text in reversed(_last_lines(self.run_dir, SAMPLES)):
            try:
                return SamplesLine.model_validate(json.loads(text))
            except (ValueError, ValidationError):
                continue
        return None

    def to_json(self) -> dict[str, object]:
        """What a program wants to know, as `tunesmith status --json` has it, and the last step's numbers."""
        line = self.line.to_json() if self.line is not None else {}
        return {
            "run": str(self.run_dir.path),
            **self.standing.to_json(),
            "eval_loss_base": self.base_loss,
            "seconds": self.seconds,
            **{key: line.get(key) for key in ("epoch", "learning_rate", "grad_norm", "peak_bytes", "energy_joules")},
            "samples": self.samples.to_json() if self.samples is not None else None,
        }


def _some_lines(data: mmap.mmap, begin: int, end: int) -> list[tuple[int, int]]:
    """Where lines stand, of very many: each evaluation, some steps evenly spaced, the last. A screen shows no more."""

    def line_at(place: int) -> tuple[int, int]:
        return data.rfind(b"\n", begin, place) + 1 or begin, data.find(b"\n", place, end)

    found = {line_at(place) for place in range(begin, end, max(1, (end - begin) // MAX_POINTS))}
    found.add(line_at(end - 2))
    place = data.find(_EVALUATION, begin, end)
    while place >= 0:
        found.add(line_at(place))
        place = data.find(_EVALUATION, place + 1, end)
    return sorted(found)


def _last_lines(run_dir: RunDir, name: str) -> tuple[str, ...]:
    try:
        with run_dir.file(name).open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ()
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return tuple(lines[1:] if size > TAIL_BYTES else lines)
