"""What training tells while it goes on. `show` implements it for a person, a Python caller for itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tunesmith.run.artefacts import EvalScores, Event, MetricsLine


class Observer(Protocol):
    """Every call comes from the process that writes, between two steps; it should return at once."""

    def doing(self, stage: str) -> None:
        """What is done from now on, before the first step and after the last."""

    def started(self, step: int, num_steps: int) -> None:
        """Steps begin, after `step` that are already done."""

    def note(self, message: str) -> None:
        """Something that the user should know."""

    def happened(self, event: Event) -> None:
        """The run survived something out of the ordinary, which was noted too."""

    def stepped(self, line: MetricsLine, seconds_left: float | None) -> None:
        """A line of metrics.jsonl was written. seconds_left: until the last step is done."""

    def evaluating(self, done: int, total: int) -> None:
        """So many of the held-out documents are scored."""

    def evaluated(self, step: int, scores: EvalScores) -> None:
        """The held-out documents are scored; step 0 is the base model."""


class Silent:
    """An observer that tells nobody."""

    def doing(self, stage: str) -> None: ...

    def started(self, step: int, num_steps: int) -> None: ...

    def note(self, message: str) -> None: ...

    def happened(self, event: Event) -> None: ...

    def stepped(self, line: MetricsLine, seconds_left: float | None) -> None: ...

    def evaluating(self, done: int, total: int) -> None: ...

    def evaluated(self, step: int, scores: EvalScores) -> None: ...


@dataclass(frozen=True)
class Callbacks:
    """Functions of a Python caller, each called between two steps.

    on_step: with each line of metrics.jsonl; on_evaluate: with the step and its held-out scores, step 0 of the base
    model; stop: asked after each line, True saves and ends the run as a signal does. on_event: with each loss spike.
    """

    on_step: Callable[[MetricsLine], object] | None = None
    on_evaluate: Callable[[int, EvalScores], object] | None = None
    stop: Callable[[], bool] | None = None
    on_event: Callable[[Event], object] | None = None


class Calling:
    """Passes everything on to `observer`, and to `callbacks` what they are for. ask: asks the run to stop."""

    def __init__(self, observer: Observer, callbacks: Callbacks, ask: Callable[[str], None]) -> None:
        self.observer = observer
        self.callbacks = callbacks
        self.ask = ask

    def doing(self, stage: str) -> None:
        self.observer.doing(stage)

    def started(self, step: int, num_steps: int) -> None:
        self.observer.started(step, num_steps)

    def note(self, message: str) -> None:
        self.observer.note(message)

    def happened(self, event: Event) -> None:
        self.observer.happened(event)
        if self.callbacks.on_event is not None:
            self.callbacks.on_event(event)

    def stepped(self, line: MetricsLine, seconds_left: float | None) -> None:
        self.observer.stepped(line, seconds_left)
        if self.callbacks.on_step is not None:
            self.callbacks.on_step(line)
        if self.callbacks.stop is not None and self.callbacks.stop():
            self.ask("stop() said so")

    def evaluating(self, done: int, total: int) -> None:
        self.observer.evaluating(done, total)

    def evaluated(self, step: int, scores: EvalScores) -> None:
        self.observer.evaluated(step, scores)
        if self.callbacks.on_evaluate is not None:
            self.callbacks.on_evaluate(step, scores)
