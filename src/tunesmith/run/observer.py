"""What training tells while it goes on. `show` implements it for a person, a Python caller for itself."""

from __future__ import annotations

from typing import Protocol

from tunesmith.run.artefacts import EvalScores, MetricsLine


class Observer(Protocol):
    """Every call comes from the process that writes, between two steps; it should return at once."""

    def doing(self, stage: str) -> None:
        """What is done from now on, before the first step and after the last."""

    def started(self, step: int, num_steps: int) -> None:
        """Steps begin, after `step` that are already done."""

    def note(self, message: str) -> None:
        """Something that the user should know."""

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

    def stepped(self, line: MetricsLine, seconds_left: float | None) -> None: ...

    def evaluating(self, done: int, total: int) -> None: ...

    def evaluated(self, step: int, scores: EvalScores) -> None: ...
