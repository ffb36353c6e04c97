"""A run as it stands, read from its directory. Nothing here is written, so any number of watchers is safe."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from pydantic import ValidationError

from tunesmith.run.artefacts import MetricsLine, Plan, Result, SamplesLine
from tunesmith.run.directory import LOG, METRICS, SAMPLES, RunDir
from tunesmith.run.standing import Standing, standing

TAIL_BYTES = 16_000
MANY_BYTES = 2_000_000
_EVALUATION = re.compile(rb'[^\n]*"eval_loss"[^\n]*')
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

    @classmethod
    def of(cls, run_dir: RunDir) -> View:
        view = cls(run_dir, standing(run_dir))
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
            return told + max(0.0, time.time() - self.standing.updated)
        return self.result.total_seconds if self.result is not None else told

    def refresh(self) -> None:
        """Read what was written since the last time."""
        self.standing = standing(self.run_dir)
        self.plan, self.result = self.run_dir.find(Plan), self.run_dir.find(Result)
        self._read_metrics()
        self.log = _last_lines(self.run_dir, LOG)
        self.samples = self._last_samples()

    def _read_metrics(self) -> None:
        path = self.run_dir.file(METRICS)
        try:
            with path.open("rb") as file:
                if file.seek(0, 2) < self._place:  # the run was begun again, or resumed from an earlier step
                    self._place, self.train, self.held_out, self.line = 0, Curve("loss"), Curve("eval_loss"), None
                file.seek(self._place)
                data = file.read()
        except OSError:
            return
        whole = data[: data.rfind(b"\n") + 1]  # the rest is still being written
        self._place += len(whole)
        for text in _some_lines(whole):
            self._take(text)

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
            **{key: line.get(key) for key in ("epoch", "learning_rate", "grad_norm", "peak_bytes")},
            "samples": self.samples.to_json() if self.samples is not None else None,
        }


def _some_lines(data: bytes) -> Iterator[bytes]:
    """Every line; of very many each evaluation, some steps evenly spaced, and the last: a screen shows no more."""
    if len(data) <= MANY_BYTES:
        yield from data.splitlines()
        return
    found = {match.start(): match[0] for match in _EVALUATION.finditer(data)}
    for place in range(0, len(data), len(data) // MAX_POINTS):
        begin = data.find(b"\n", place) + 1
        found[begin] = data[begin : data.find(b"\n", begin)]
    last = data.rfind(b"\n", 0, len(data) - 1) + 1
    found[last] = data[last:]
    for place in sorted(found):
        yield found[place]


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
