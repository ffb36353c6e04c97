"""Memory, time and disk of one way to train on one device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tunesmith.forecast.disk import DiskForecast, forecast_disk
from tunesmith.forecast.forecaster import WEIGHT_BYTES, Fit, Forecaster, Found, Target
from tunesmith.forecast.memory import MemoryForecast
from tunesmith.forecast.roofline import CpuRates, GpuRates, Rates, measure_gpu
from tunesmith.forecast.time import (
    WRITE_BYTES_PER_SECOND,
    Amounts,
    StepTime,
    TimeForecast,
    save_time,
    time_of_run,
    time_of_step,
)
from tunesmith.forecast.tracing.step import Step
from tunesmith.forecast.tracing.trace import Log
from tunesmith.run.artefacts import Predicted

TOKEN_BYTES = 5
"""Tokenised data on disk: an int32 and a flag."""
NOMINAL_FLOPS = {"cpu": 2e11, "cuda": 1.5e14}
"""Of training, a second: what two cores with bf16 and a small step on an H200 come to."""


@dataclass(frozen=True)
class Forecast:
    """What a run will take."""

    target: Target
    fit: Fit
    memory: MemoryForecast
    step_time: StepTime
    time: TimeForecast
    disk: DiskForecast
    evaluation_share: float
    """Arithmetic of one evaluation, as a share of the training's."""
    _amounts: Amounts

    @property
    def step_tokens(self) -> float:
        """Of a step, over all processes, on average."""
        return self._amounts.num_tokens / max(1, self._amounts.num_steps)

    @property
    def step_seconds(self) -> float:
        """Of such a step."""
        return self.step_time.of(self.step_tokens)

    @property
    def seconds_of_save(self) -> float:
        """Seconds to write one checkpoint."""
        return save_time(self.disk.checkpoint_bytes, self.target.device)

    @property
    def best_share(self) -> float:
        """Of training, to write the best weights once, at nominal rates: what a machine was measured to do today
        decides nothing."""
        run = self._amounts
        training = self.step_time.flops_per_token * run.num_tokens / NOMINAL_FLOPS[self.target.device]
        return run.trained_bytes / WRITE_BYTES_PER_SECOND / training if training else 0.0

    def with_schedule(self, *, num_evaluations: int, save_interval: float | None) -> Forecast:
        """With another number of evaluations, and seconds between saves."""
        amounts = replace(self._amounts, num_evaluations=num_evaluations, save_interval=save_interval)
        return replace(self, time=time_of_run(self.step_time, amounts), _amounts=amounts)

    def with_best_weights(self) -> Forecast:
        """Where the weights of the lowest held-out loss are kept: written at each evaluation, if every one is lower."""
        amounts = replace(self._amounts, keeps_best=True)
        disk = self.disk.with_best(amounts.trained_bytes)
        return replace(self, disk=disk, time=time_of_run(self.step_time, amounts), _amounts=amounts)

    def with_step_time(self, step_time: StepTime) -> Forecast:
        """With other times of a step, such as those refitted to real steps."""
        return replace(self, step_time=step_time, time=time_of_run(step_time, self._amounts))

    def predicted(self) -> Predicted:
        """The `predicted` of plan.json. Its first four have the meaning that result.json gives them, so that what was
        measured compares: a GPU's peak without the CUDA context, seconds from the loaded model on."""
        return Predicted(
            peak_bytes=self.memory.reserved_bytes if self.target.device == "cuda" else self.memory.peak_bytes,
            train_seconds=self.time.train_seconds,
            total_seconds=self.time.run_seconds,
            tokens_per_second=self.time.tokens_per_second,
            fit=self.fit,
            capacity_bytes=self.target.capacity_bytes,
            memory=self.memory.record(),
            time=self.time.record(),
            disk=self.disk.record(),
        )


def forecast_run(
    forecaster: Forecaster,
    target: Target,
    found: Found,
    *,
    num_steps: int,
    out: Path | None,
    recorded: bool = False,
) -> Forecast:
    """Time and disk of a choice whose memory is known. Evaluated before the first step and at the end only.

    recorded: its steps are CUDA graphs.
    """
    step = forecaster.step(found.choice, target)
    log = forecaster.log(step)
    step_time = time_of_step(log, step, *_rates(log, target), recorded=recorded)
    step_time = step_time.of_processes(forecaster.exchange(found.choice, target))
    disk = forecast_disk(
        num_parameters=forecaster.shape.num_parameters,
        num_trained=log.num_trained,
        weight_bytes=WEIGHT_BYTES[found.choice.dtype],
        optimizer=found.choice.optimizer,
        state_bytes=log.state_bytes(),
        adapter=found.choice.method != "full",
        keep=forecaster.recipe.save.keep,
        cache_bytes=forecaster.workload.train.num_tokens * TOKEN_BYTES,
        out=out if target.here else None,
    )
    num_tokens, target_fraction, eval_tokens = _tokens_of_run(forecaster, found, step)
    amounts = Amounts(
        num_steps=num_steps,
        num_tokens=num_tokens,
        target_fraction=target_fraction,
        eval_tokens=eval_tokens,
        num_evaluations=2,
        checkpoint_bytes=disk.checkpoint_bytes,
        trained_bytes=log.num_trained * (WEIGHT_BYTES[found.choice.dtype] if found.choice.method == "full" else 4),
        save_interval=None,
        weights_bytes=forecaster.shape.num_parameters * WEIGHT_BYTES[found.choice.dtype],
        device=target.device,
    )
    time = time_of_run(step_time, amounts)
    share = _evaluation_share(log, step, amounts)
    return Forecast(target, found.fit, found.memory, step_time, time, disk, share, amounts)


def _rates(log: Log, target: Target) -> tuple[Rates, str]:
    """How fast the device is, and how that is known."""
    if target.device == "cpu":
        work = log.work("forward", "backward", "clip", "optimizer", "evaluation")
        return CpuRates.measure(work), "matrix products timed on this processor"
    if target.gpu is not None:
        return GpuRates(target.gpu), "rates of the data sheet; not measured on a GPU"
    return GpuRates(
        measure_gpu(target.name), gemm_share=1.1, bandwidth_share=0.37, optimizer_share=0.62, operand_share=1.0
    ), "rates measured on this GPU"


def _tokens_of_run(forecaster: Forecaster, found: Found, step: Step) -> tuple[int, float, int]:
    """Tokens of the whole run, the share of them that is learned, and the tokens of one evaluation."""
    recipe, workload = forecaster.recipe, forecaster.workload
    if step.kind == "reference":
        length = forecaster.max_length
        rows = round(len(workload.train.fed) * recipe.train.epochs)
        target_fraction = workload.train.num_targets / (len(workload.train.fed) * length)
        return rows * length, target_fraction, len(workload.eval.fed) * length
    num_tokens = forecaster.steps(found.choice.tokens_per_step).num_tokens
    return num_tokens, step.target_fraction, workload.eval.num_tokens


def _evaluation_share(log: Log, step: Step, run: Amounts) -> float:
    """It is of arithmetic, not of measured time, so that the same recipe gives the same plan on any day."""
    passes = 2 if step.accumulates else 1

    def flops(*phases: str) -> float:
        return sum(item.flops * calls for item, calls in log.work(*phases).items())

    train = flops("forward", "backward") / passes / step.num_tokens * run.num_tokens
    return flops("evaluation") / step.num_scored * run.eval_tokens / train if train else 0.0
