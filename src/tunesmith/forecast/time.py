"""How long a run takes: steps, evaluations, saves and loading, each priced apart; and the refit to real steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal, NamedTuple

from tunesmith.forecast.exchange import Exchange
from tunesmith.forecast.host import LAUNCH_SECONDS, HostTime, host_time
from tunesmith.forecast.roofline import Rates
from tunesmith.forecast.tracing.launches import launches_of
from tunesmith.forecast.tracing.step import Step
from tunesmith.forecast.tracing.trace import Log
from tunesmith.run.artefacts import PredictedTime

DISK_BYTES_PER_SECOND = {"cpu": 4e8, "cuda": 8e8}
"""Writing a checkpoint with its hashes and its flush to disk. Assumed."""
WRITE_BYTES_PER_SECOND = 1e9
"""Writing weights without their flush to disk: 460 MB took 0.43 s on a virtual machine of two cores."""
READ_BYTES_PER_SECOND = 1e9
START_SECONDS = 8.0
"""Imports and set-up before the first step."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of the parts of a step: t = step_seconds + token_seconds * tokens, or the host's where that is longer."""

    token_seconds: float
    """Forward and backward, per fed token."""
    step_seconds: float
    """Clipping and the optimizer, per step."""
    eval_token_seconds: float
    flops_per_token: float
    origin: str
    """How it is known."""
    host: HostTime = field(default_factory=HostTime)
    """What it takes to start the work of a GPU, which goes on meanwhile."""
    exchange: Exchange = field(default_factory=Exchange)
    """Between several processes."""

    def of(self, num_tokens: float) -> float:
        """Seconds of a step of so many tokens, over all processes."""
        own = self.exchange.own(num_tokens)
        device = self.step_seconds + self.token_seconds * own
        return max(device, self.host.of(own)) + self.host.wait_seconds + self.waited_seconds(num_tokens)

    def waited_seconds(self, num_tokens: float) -> float:
        """Seconds of such a step for which a process waits for exchanges with others."""
        own = self.exchange.own(num_tokens)
        passes = max(self.token_seconds * own, self.host.of(own) - self.host.step_seconds)
        return self.exchange.waited_seconds(num_tokens, passes)

    def is_launch_bound(self, num_tokens: float) -> bool:
        """Whether a GPU waits for its launches."""
        own = self.exchange.own(num_tokens)
        return self.host.of(own) > self.step_seconds + self.token_seconds * own

    def of_processes(self, exchange: Exchange) -> StepTime:
        """Of one of several: it shares steps and scores its part of the held-out documents."""
        if exchange.num_processes == 1:
            return self
        turns = exchange.takes_turns
        scored = max(turns * self.eval_token_seconds, exchange.gather_seconds / exchange.pass_tokens)
        return replace(
            self,
            token_seconds=turns * self.token_seconds,
            step_seconds=turns * self.step_seconds / (exchange.num_processes if exchange.sharded else 1),
            eval_token_seconds=scored / exchange.num_processes,
            exchange=exchange,
        )


@dataclass(frozen=True)
class TimeForecast:
    """Seconds of a run."""

    train_seconds: float
    eval_seconds: float
    num_evaluations: int
    save_seconds: float
    num_saves: float
    load_seconds: float
    tokens_per_second: float
    """Supervised tokens per second of training."""
    flops_per_token: float
    origin: str

    @property
    def run_seconds(self) -> float:
        """What result.json calls total_seconds: from the loaded model to the end."""
        return self.train_seconds + self.eval_seconds + self.save_seconds

    @property
    def total_seconds(self) -> float:
        """What is paid for."""
        return self.run_seconds + self.load_seconds

    def record(self) -> PredictedTime:
        return PredictedTime(**asdict(self), run_seconds=self.run_seconds, total_seconds=self.total_seconds)


class Measured(NamedTuple):
    """A real step, or a real evaluation: its fed tokens and its seconds."""

    num_tokens: int
    seconds: float
    kind: Literal["step", "evaluation"] = "step"


def time_of_step(log: Log, step: Step, rates: Rates, origin: str, *, recorded: bool = False) -> StepTime:
    """Seconds of a traced step. A log of an accumulated step holds two micro-batches. recorded: as CUDA graphs."""
    passes = 2 if step.accumulates else 1
    work = log.work("forward", "backward")
    flops = sum(item.flops * calls for item, calls in work.items())
    tokens = step.num_tokens * passes
    scoring = log.work("evaluation")
    evaluation = rates.seconds(scoring)
    if step.device == "cuda":
        evaluation = max(evaluation, LAUNCH_SECONDS * launches_of(scoring))
    return StepTime(
        token_seconds=step.runs_each_pass * rates.seconds(work) / tokens,
        step_seconds=rates.seconds(log.work("clip", "optimizer", "zero_grad")),
        eval_token_seconds=evaluation / step.num_scored,
        flops_per_token=flops / tokens,
        origin=origin,
        host=host_time(log, step, rates, recorded=recorded),
    )


@dataclass(frozen=True)
class Amounts:
    """How much of everything a run does."""

    num_steps: int
    num_tokens: int
    """Tokens trained on, in the whole run."""
    target_fraction: float
    eval_tokens: int
    """Tokens of one evaluation."""
    num_evaluations: int
    checkpoint_bytes: int
    trained_bytes: int
    """Of the weights that train."""
    save_interval: float | None
    """Seconds between saves, or None when only the end is saved."""
    weights_bytes: int
    device: str
    keeps_best: bool = False
    """The weights of the lowest held-out loss are written as well."""


def time_of_run(step: StepTime, run: Amounts) -> TimeForecast:
    """Seconds of a whole run."""
    train_seconds = step.host.once_seconds + run.num_steps * step.of(run.num_tokens / max(1, run.num_steps))
    num_saves = 1.0 + (train_seconds // run.save_interval if run.save_interval else 0)
    return TimeForecast(
        train_seconds=train_seconds,
        eval_seconds=run.num_evaluations * run.eval_tokens * step.eval_token_seconds,
        num_evaluations=run.num_evaluations,
        save_seconds=num_saves * save_time(run.checkpoint_bytes, run.device) + _best_time(run),
        num_saves=num_saves,
        load_seconds=START_SECONDS + run.weights_bytes / READ_BYTES_PER_SECOND,
        tokens_per_second=run.num_tokens * run.target_fraction / train_seconds if train_seconds else 0.0,
        flops_per_token=step.flops_per_token,
        origin=step.origin,
    )


def _best_time(run: Amounts) -> float:
    """Seconds to write the best weights, if every evaluation but that of the base is the best so far."""
    return (run.num_evaluations - 1) * run.trained_bytes / WRITE_BYTES_PER_SECOND if run.keeps_best else 0.0


def save_time(num_bytes: int, device: str) -> float:
    """Seconds to write one checkpoint."""
    return num_bytes / DISK_BYTES_PER_SECOND[device]


def measure_steps(
    run_step: Callable[[int], object], tokens_of: Sequence[int], *, skip: int = 3, count: int = 10
) -> list[Measured]:
    """Run a few real steps and time them, in turns, after `skip` that warm up and create the optimizer's state.

    run_step(number) runs one whole optimizer step; it must wait for the device. tokens_of: fed tokens of each step that
    may be run; of different sizes, so that what a step costs at least is told from what a token costs.
    """
    measured = []
    for turn in range(skip + count):
        number = turn % len(tokens_of)
        began = time.perf_counter()
        run_step(number)
        if turn >= skip:
            measured.append(Measured(tokens_of[number], time.perf_counter() - began))
    return measured


def refit(forecast: StepTime, measured: Sequence[Measured]) -> StepTime:
    """The times refitted to real steps and evaluations; without the latter, they are scaled as the tokens of steps."""
    steps = [item for item in measured if item.kind == "step"]
    evaluations = [item for item in measured if item.kind == "evaluation"]
    if not steps:
        return forecast
    found = _fit(forecast, steps)
    evaluation = found.eval_token_seconds
    if evaluations:
        evaluation = sum(item.seconds for item in evaluations) / sum(item.num_tokens for item in evaluations)
    return replace(
        found,
        eval_token_seconds=evaluation,
        origin=f"{len(steps)} real steps on this machine",
    )


def _fit(forecast: StepTime, steps: Sequence[Measured]) -> StepTime:
    """t = a + b * tokens by least squares, neither negative; the host's time is in both.

    When the steps are too alike in size to tell a from b, the forecast keeps its shape and is scaled.
    """
    tokens = [item.num_tokens for item in steps]
    mean_tokens = sum(tokens) / len(tokens)
    mean_seconds = sum(item.seconds for item in steps) / len(steps)
    if max(tokens) >= 1.5 * min(tokens):
        spread = sum((number - mean_tokens) ** 2 for number in tokens)
        together = sum((item.num_tokens - mean_tokens) * (item.seconds - mean_seconds) for item in steps)
        slope = together / spread
        fixed = mean_seconds - slope * mean_tokens
        if slope > 0 and fixed >= 0:
            evaluation = forecast.eval_token_seconds * slope / forecast.token_seconds
            host = HostTime(once_seconds=forecast.host.once_seconds)
            return replace(forecast, step_seconds=fixed, token_seconds=slope, eval_token_seconds=evaluation, host=host)
    scale = mean_seconds / forecast.of(mean_tokens)
    return replace(
        forecast,
        step_seconds=forecast.step_seconds * scale,
        token_seconds=forecast.token_seconds * scale,
        eval_token_seconds=forecast.eval_token_seconds * scale,
        host=forecast.host.scaled(scale),
    )
