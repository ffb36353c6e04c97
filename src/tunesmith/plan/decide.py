"""Recipe + data + machine -> Plan: each `auto` of the recipe becomes a value with a reason."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tunesmith.data.steps import run_steps
from tunesmith.errors import PlanError
from tunesmith.plan.machine import Machine
from tunesmith.recipe import Recipe

if TYPE_CHECKING:
    from tunesmith.data import Data

Precision = Literal["fp32", "bf16", "fp16"]
Every = int | str

STEPS_WANTED = 256
"""Optimizer steps that a run should have, before a step may grow beyond the smallest size."""
MIN_TOKENS_PER_STEP = 512
MAX_TOKENS_PER_STEP = {"cpu": 1024, "cuda": 32768}
MAX_MICRO_BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}
EVALUATIONS_WANTED = 8
EVALUATION_SHARE = 0.10
SAVE_SECONDS = 300


@dataclass(frozen=True)
class Plan:
    """What was decided. Every field has an entry in `reasons`."""

    method: Literal["full", "lora", "qlora"]
    precision: Precision
    """Type of the arithmetic: fp32, or autocast to bf16 or fp16."""
    dtype: Literal["float32", "bfloat16", "float16"]
    """Type in which the model's weights are held; adapters are always float32."""
    optimizer: Literal["adamw", "adamw8bit"]
    tokens_per_step: int
    """Tokens per optimizer step over all processes."""
    micro_batch_tokens: int
    """Tokens per forward and backward pass on one device."""
    gradient_checkpointing: bool
    compile: bool
    num_steps: int
    warmup_steps: int
    eval_every: Every
    """Optimizer steps (50) or a duration (10m), as in the recipe."""
    save_every: Every
    """Optimizer steps (50) or a duration (10m), as in the recipe."""
    device: Literal["cpu", "cuda"]
    num_processes: int
    reasons: dict[str, str] = field(default_factory=dict)
    predicted: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The content of plan.json."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Plan:
        """The plan that `to_json` wrote; keys added later (`measured`) are left out."""
        names = {item.name for item in fields(cls)}
        missing = names - value.keys()
        if missing:
            raise PlanError(f"plan.json: {', '.join(sorted(missing))} missing. Write it again with `tunesmith train`.")
        return cls(**{name: value[name] for name in names})


def make_plan(recipe: Recipe, data: Data, machine: Machine) -> Plan:
    """Decide every value that training needs. Raises PlanError when what was asked does not fit the machine."""
    reasons: dict[str, str] = {}
    lengths = [int(length) - 1 for length in data.train.lengths]
    if not lengths:
        raise PlanError(
            "plan: the training split has 0 documents. Expected at least one; check data and its fractions."
        )
    method = _method(recipe, reasons)
    precision = _precision(recipe, machine, reasons)
    tokens_per_step = choose_tokens_per_step(recipe, lengths, machine, reasons)
    micro_batch_tokens = _micro_batch_tokens(recipe, tokens_per_step, machine, reasons)
    num_steps = _num_steps(recipe, lengths, tokens_per_step, reasons)
    return Plan(
        method=method,
        precision=precision,
        dtype=_dtype(recipe, method, precision, reasons),
        optimizer=_optimizer(recipe, machine, reasons),
        tokens_per_step=tokens_per_step,
        micro_batch_tokens=micro_batch_tokens,
        gradient_checkpointing=_flag(recipe, "gradient_checkpointing", "memory is plentiful without it", reasons),
        compile=_flag(recipe, "compile", "compiling costs more than it saves on a run this short", reasons),
        num_steps=num_steps,
        warmup_steps=_warmup_steps(recipe, num_steps, reasons),
        eval_every=_eval_every(recipe, data, num_steps, reasons),
        save_every=_save_every(recipe, reasons),
        device=_device(machine, reasons),
        num_processes=_num_processes(machine, reasons),
        reasons=reasons,
    )


def choose_tokens_per_step(recipe: Recipe, lengths: list[int], machine: Machine, reasons: dict[str, str]) -> int:
    """Tokens per optimizer step, for the shortest time to a held-out loss rather than for throughput.

    With too few steps the learning rate's schedule has no room: on 512 short documents, 33 steps of 512 tokens reached
    a held-out loss of 3.88 where 8 steps of 2048 reached 4.23. So a step is as small as still leaves about 256 steps,
    at least 512 tokens (below, throughput falls), at most 1024 on a CPU (96% of the throughput of 2048) or 32768 on a
    GPU, and never below the longest document.
    """
    asked = recipe.train.tokens_per_step
    if asked != "auto":
        reasons["tokens_per_step"] = "the recipe says so"
        return asked
    total = sum(lengths) * recipe.train.epochs
    largest = MAX_TOKENS_PER_STEP[machine.device]
    wanted = 1 << round(math.log2(max(1.0, total / STEPS_WANTED)))
    chosen = min(largest, max(MIN_TOKENS_PER_STEP, wanted))
    longest = max(lengths)
    why = f"{total:,.0f} training tokens; about {STEPS_WANTED} steps wanted, within {MIN_TOKENS_PER_STEP} to {largest}"
    if chosen < longest:
        chosen, why = longest, f"the longest document has {longest:,} tokens"
    reasons["tokens_per_step"] = why
    return chosen


def _method(recipe: Recipe, reasons: dict[str, str]) -> Literal["full", "lora", "qlora"]:
    asked = recipe.train.method
    if asked == "auto":
        reasons["method"] = "memory is plentiful for full fine-tuning"
        return "full"
    reasons["method"] = "the recipe says so"
    return asked


def _precision(recipe: Recipe, machine: Machine, reasons: dict[str, str]) -> Precision:
    asked = recipe.train.precision
    if asked != "auto":
        reasons["precision"] = "the recipe says so"
        return asked
    if machine.device == "cpu":
        reasons["precision"] = "fp32 is the fastest type of most processors"
        return "fp32"
    if machine.supports_bf16:
        reasons["precision"] = f"{machine.name} has native bf16"
        return "bf16"
    reasons["precision"] = f"{machine.name} has no native bf16; fp16 may overflow"
    return "fp32"


def _dtype(
    recipe: Recipe, method: str, precision: Precision, reasons: dict[str, str]
) -> Literal["float32", "bfloat16", "float16"]:
    asked = recipe.model.dtype
    if asked != "auto":
        reasons["dtype"] = "the recipe says so"
        return asked
    if method == "full" or precision == "fp32":
        reasons["dtype"] = "weights that are trained are held in float32; small updates would be lost in a shorter type"
        return "float32"
    reasons["dtype"] = "the base model's weights are frozen, so the shorter type loses no update"
    return "bfloat16" if precision == "bf16" else "float16"


def _optimizer(recipe: Recipe, machine: Machine, reasons: dict[str, str]) -> Literal["adamw", "adamw8bit"]:
    asked = recipe.train.optimizer
    if asked != "auto":
        if asked == "adamw8bit" and machine.device == "cpu":
            raise PlanError("train.optimizer: adamw8bit needs a CUDA GPU, found none. Use adamw.")
        reasons["optimizer"] = "the recipe says so"
        return asked
    reasons["optimizer"] = "memory is plentiful for 32-bit optimizer state"
    return "adamw"


def _micro_batch_tokens(recipe: Recipe, tokens_per_step: int, machine: Machine, reasons: dict[str, str]) -> int:
    share = math.ceil(tokens_per_step / machine.num_processes)
    asked = recipe.train.micro_batch_tokens
    if asked != "auto":
        reasons["micro_batch_tokens"] = "the recipe says so"
        return min(asked, share)
    largest = MAX_MICRO_BATCH_TOKENS[machine.device]
    if share <= largest:
        reasons["micro_batch_tokens"] = "a whole step fits in one pass"
        return share
    passes = math.ceil(share / largest)
    reasons["micro_batch_tokens"] = f"larger passes are no faster; a step takes {passes}"
    return math.ceil(share / passes)


def _num_steps(recipe: Recipe, lengths: list[int], tokens_per_step: int, reasons: dict[str, str]) -> int:
    asked = recipe.train
    fed_tokens = np.array(lengths, dtype=np.int64)
    whole = len(run_steps(fed_tokens, tokens_per_step, seed=asked.seed, epochs=asked.epochs))
    reasons["num_steps"] = f"{asked.epochs:g} epochs of {sum(lengths):,} tokens"
    if asked.max_steps is not None and asked.max_steps < whole:
        reasons["num_steps"] = f"train.max_steps; the data would last for {whole:,}"
        return asked.max_steps
    return whole


def _warmup_steps(recipe: Recipe, num_steps: int, reasons: dict[str, str]) -> int:
    fraction = recipe.train.warmup_fraction
    reasons["warmup_steps"] = f"train.warmup_fraction {fraction:g} of {num_steps:,} steps"
    return min(num_steps - 1, max(1, round(fraction * num_steps))) if fraction > 0 else 0


def _eval_every(recipe: Recipe, data: Data, num_steps: int, reasons: dict[str, str]) -> Every:
    asked = recipe.eval.every
    if asked != "auto":
        reasons["eval_every"] = "the recipe says so"
        return asked
    train_tokens = int(data.train.lengths.sum()) * recipe.train.epochs
    eval_tokens = int(data.eval.lengths.sum())
    # A forward pass takes a third of a training step's arithmetic.
    affordable = int(EVALUATION_SHARE * 3 * train_tokens / max(1, eval_tokens))
    evaluations = max(1, min(EVALUATIONS_WANTED, affordable, num_steps))
    cost = evaluations * eval_tokens / 3 / train_tokens
    reasons["eval_every"] = f"{evaluations} evaluations, about {cost:.0%} of the time"
    return max(1, math.ceil(num_steps / evaluations))


def _save_every(recipe: Recipe, reasons: dict[str, str]) -> Every:
    asked = recipe.save.every
    if asked != "auto":
        reasons["save_every"] = "the recipe says so"
        return asked
    reasons["save_every"] = f"a stopped run loses at most {SAVE_SECONDS // 60} minutes"
    return f"{SAVE_SECONDS}s"


def _flag(
    recipe: Recipe, name: Literal["gradient_checkpointing", "compile"], why: str, reasons: dict[str, str]
) -> bool:
    asked: bool | str = getattr(recipe.train, name)
    reasons[name] = why if asked == "auto" else "the recipe says so"
    return asked is True


def _device(machine: Machine, reasons: dict[str, str]) -> Literal["cpu", "cuda"]:
    reasons["device"] = machine.name
    return machine.device


def _num_processes(machine: Machine, reasons: dict[str, str]) -> int:
    launched = "started by the launcher" if machine.num_processes > 1 else "one process"
    reasons["num_processes"] = launched
    return machine.num_processes
