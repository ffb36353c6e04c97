"""Seconds of a run, whatever they were spent on, and what is due."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from tunesmith.machine.energy import EnergyMeter
from tunesmith.recipe import Every, duration_seconds
from tunesmith.run.artefacts import Plan

LOG_LINES = 200
"""Lines of metrics.jsonl that a run on a GPU writes at least; on a CPU every step has one."""
ENERGY_SECONDS = 2.0
"""How far the energy of a line may be behind."""
WARM_UP_STEPS = 2
"""Logged steps that say nothing about the others."""


@dataclass
class Spent:
    """Seconds of the run so far, those before a resume included; all others are part of `total`."""

    total: float = 0.0
    evaluating: float = 0.0
    saving: float = 0.0
    preparing: float = 0.0
    """Before steps: self-test, rehearsal, recording."""
    joules: float | None = None
    """Of its GPUs; None where a part of it was not measured."""


@dataclass
class Window:
    """Tokens since the last line of metrics.jsonl, and when it was written; evaluations and saves do not count."""

    targets: int = 0
    fed: int = 0
    begun: float = field(default_factory=time.monotonic)


class Clock:
    """The time of one run in this process. A clock differs between processes: what is due must be agreed on."""

    def __init__(self, plan: Plan, meter: EnergyMeter | None = None) -> None:
        self.plan, self.meter = plan, meter
        self.before = Spent(joules=0.0)
        self.window = Window()
        self._log_every = max(1, plan.num_steps // LOG_LINES) if plan.device == "cuda" else 1
        self._begun = self._last_save = self._last_eval = time.monotonic()
        self._evaluating = self._saving = self._preparing = 0.0
        self._asked, self._steady = 0, (0.0, 0)

    def spent(self, energy_age: float = 0.0) -> Spent:
        """Up to now. energy_age: seconds that the energy may be behind."""
        before = self.before
        return Spent(
            total=self._total(),
            evaluating=before.evaluating + self._evaluating,
            saving=before.saving + self._saving,
            preparing=before.preparing + self._preparing,
            joules=self._joules(energy_age),
        )

    def _total(self) -> float:
        return self.before.total + time.monotonic() - self._begun

    def _joules(self, max_age: float) -> float | None:
        here = self.meter.joules(max_age) if self.meter is not None else None
        return None if here is None or self.before.joules is None else self.before.joules + here

    def training_seconds(self) -> float:
        """Seconds in optimizer steps."""
        before, here = self.before, self._evaluating + self._saving + self._preparing
        return max(0.0, self._total() - before.evaluating - before.saving - before.preparing - here)

    def seconds_left(self, fed: int, left: int) -> float | None:
        """Until `left` tokens more are fed, after `fed`; asked after each logged step.

        By the rate since the second: before it stand self-test and rehearsal, and the first steps are slower than all
        others. None until there is a third.
        """
        now = self.training_seconds()
        self._asked += 1
        if self._asked == WARM_UP_STEPS:
            self._steady = now, fed
        seconds, before = self._steady
        if self._asked <= WARM_UP_STEPS or fed <= before:
            return None if left else 0.0
        return (now - seconds) / (fed - before) * left

    def restore(self, spent: Spent) -> None:
        """Go on from what was spent before."""
        self.before, self._evaluating, self._saving, self._preparing = spent, 0.0, 0.0, 0.0
        self._begun = self._last_save = self._last_eval = time.monotonic()
        self.window = Window()
        self._asked, self._steady = 0, (0.0, 0)

    def count(self, num_targets: int, num_fed: int) -> None:
        """A step was made of so many tokens."""
        self.window.targets += num_targets
        self.window.fed += num_fed

    def close_window(self) -> tuple[float, float]:
        """Supervised and fed tokens a second since the last line; the next line is measured from now on."""
        now, window = time.monotonic(), self.window
        seconds = max(now - window.begun, 1e-9)
        self.window = Window(begun=now)
        return window.targets / seconds, window.fed / seconds

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """What happens inside is an evaluation."""
        started = time.monotonic()
        yield
        self._last_eval = time.monotonic()
        self._evaluating += self._last_eval - started
        self.window.begun += self._last_eval - started

    @contextlib.contextmanager
    def preparing(self) -> Iterator[None]:
        """What happens inside comes before steps, and is none."""
        started = time.monotonic()
        yield
        self._preparing += time.monotonic() - started

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """What happens inside is a save."""
        started = time.monotonic()
        yield
        self._last_save = time.monotonic()
        self._saving += self._last_save - started
        self.window.begun += self._last_save - started

    def log_is_due(self, step: int) -> bool:
        return step % self._log_every == 0

    def eval_is_due(self, step: int) -> bool:
        return _is_due(self.plan.eval_every, step, self._last_eval)

    def save_is_due(self, step: int) -> bool:
        return _is_due(self.plan.save_every, step, self._last_save)


def _is_due(every: Every, step: int, last: float) -> bool:
    return step % every == 0 if isinstance(every, int) else time.monotonic() - last >= duration_seconds(every)
