"""Steps: how large, how many, and at which learning rate."""

from __future__ import annotations

import math
from typing import TypeVar

from tunesmith.forecast.forecaster import Forecaster, Target
from tunesmith.forecast.workload import Workload, reference_rows
from tunesmith.recipe import Recipe
from tunesmith.run.artefacts import ASKED

T = TypeVar("T")

STEPS_WANTED = 256
"""Optimizer steps that a run should have, before a step may grow beyond the smallest size."""
MIN_TOKENS_PER_STEP = 256
MAX_TOKENS_PER_STEP = {"cpu": 1024, "cuda": 32768}
LEARNING_RATE = 2.0e-4
"""For all weights, and adapters that begin with the largest directions of a weight. docs/defaults.md."""
ADAPTER_RATE, ADAPTER_WIDTH, WIDTH_POWER = 5.0e-4, 2000, 0.781
"""An adapter that begins at zero wants about ten times the rate of all weights (Schulman et al., "LoRA Without Regret",
2025), and less in a wider model: the rate at a width, and the power of narrower / wider that tinker-cookbook found for
Llamas. Tried here at a width of 576 alone."""
SHORT_RUN_STEPS = 100
"""In fewer steps twice that rate ended lower, on both texts that it was tried on; four times, on one, did not."""
MAX_ADAPTER_RATE = 2.6e-3
WARMUP_FRACTION, MIN_WARMUP_STEPS = 0.03, 8


def as_asked(value: T, name: str, reasons: dict[str, str]) -> T:
    """What the recipe says, and that it does."""
    reasons[name] = ASKED
    return value


def choose_tokens_per_step(recipe: Recipe, workload: Workload, target: Target, reasons: dict[str, str]) -> int:
    """Tokens per optimizer step, for the shortest time to a held-out loss rather than for throughput.

    With too few steps the learning rate's schedule has no room: on 518 Netflix descriptions, 65 steps of 256 tokens
    reached a held-out loss of 3.59 where 33 of 512 reached 3.63; on as many of the shows 4.21 against 4.38. So a step
    is as small as still leaves about 256 steps, at least 256 tokens (131 steps of 128 reached 3.63 again: they want a
    lower rate), at most 1024 on a CPU (96% of the throughput of 2048) or 32768 on a GPU, and never below the longest
    document.
    """
    asked = recipe.train.tokens_per_step
    if asked != "auto":
        reasons["tokens_per_step"] = ASKED
        return asked
    total = workload.train.num_tokens * recipe.train.epochs
    largest = MAX_TOKENS_PER_STEP[target.device]
    wanted = 1 << round(math.log2(max(1.0, total / STEPS_WANTED)))
    chosen = min(largest, max(MIN_TOKENS_PER_STEP, wanted))
    why = f"{total:,.0f} training tokens; about {STEPS_WANTED} steps wanted, within {MIN_TOKENS_PER_STEP} to {largest}"
    if chosen < workload.train.longest:
        chosen, why = workload.train.longest, f"the longest document has {workload.train.longest:,} tokens"
    reasons["tokens_per_step"] = why
    return chosen


def choose_num_steps(forecaster: Forecaster, tokens_per_step: int, reasons: dict[str, str]) -> int:
    """Optimizer steps of the run."""
    asked = forecaster.recipe.train
    if asked.loop == "reference":
        rows, passes = reference_rows(forecaster.recipe, forecaster.max_length)
        whole = math.ceil(len(forecaster.workload.train.fed) * asked.epochs / (rows * passes))
    else:
        whole = len(forecaster.steps(tokens_per_step).all)
    reasons["num_steps"] = f"{asked.epochs:g} {'epoch' if asked.epochs == 1 else 'epochs'}"
    if asked.max_steps is not None and asked.max_steps < whole:
        reasons["num_steps"] = f"train.max_steps; the data would last for {whole:,}"
        return asked.max_steps
    return whole


def choose_learning_rate(forecaster: Forecaster, method: str, num_steps: int, reasons: dict[str, str]) -> float:
    """The highest of the schedule."""
    asked = forecaster.recipe.train.learning_rate
    if asked != "auto":
        return as_asked(asked, "learning_rate", reasons)
    if method == "full" or forecaster.recipe.lora.init == "pissa":
        reasons["learning_rate"] = "half of it ends within 0.02 on small data, twice of it higher (docs/defaults.md)"
        return LEARNING_RATE
    width: int = forecaster.shape.config.get_text_config().hidden_size
    short = f", twice that in {num_steps:,} steps" if num_steps < SHORT_RUN_STEPS else ""
    reasons["learning_rate"] = f"of an adapter in a model {width:,} wide{short} (docs/defaults.md)"
    return adapter_rate(width, num_steps)


def adapter_rate(width: int, num_steps: int) -> float:
    """The learning rate of an adapter in a model whose layers are so many numbers wide."""
    rate = ADAPTER_RATE * (ADAPTER_WIDTH / width) ** WIDTH_POWER * (2 if num_steps < SHORT_RUN_STEPS else 1)
    return float(f"{min(MAX_ADAPTER_RATE, rate):.1e}")


def choose_warmup_steps(recipe: Recipe, method: str, num_steps: int, reasons: dict[str, str]) -> int:
    """Steps over which the rate rises.

    Where all weights train, two are too few: of three runs of 82 steps that differ in the order of the documents alone
    one ended 0.08 above the others, and with eight steps it did not; of 16 steps three were too few and five were not.
    Adapters, which begin at zero, ended within 0.02 of each other with two (docs/defaults.md).
    """
    fraction = recipe.train.warmup_fraction
    if fraction != "auto":
        reasons["warmup_steps"] = f"train.warmup_fraction {fraction:g} of {num_steps:,} steps"
        return min(num_steps - 1, max(1, round(fraction * num_steps))) if fraction > 0 else 0
    share = min(num_steps - 1, max(1, round(WARMUP_FRACTION * num_steps)))
    least = min(MIN_WARMUP_STEPS, num_steps // 3) if method == "full" else 0
    reasons["warmup_steps"] = f"{WARMUP_FRACTION:g} of {num_steps:,} steps"
    if share < least:
        reasons["warmup_steps"] = f"of {num_steps:,}: fewer let the first ones move too far (docs/defaults.md)"
    return max(share, least)
