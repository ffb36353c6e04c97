"""Recipe + data + machine -> Plan: each `auto` of the recipe becomes a value with a reason."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from tunesmith.errors import PlanError
from tunesmith.fast.optimizers.eight_bit import has_bitsandbytes
from tunesmith.forecast.forecaster import Choice, Dtype, Forecaster, Found, Target
from tunesmith.forecast.run import Forecast, forecast_run
from tunesmith.forecast.shapes import find_shape, shape_of
from tunesmith.forecast.workload import Workload
from tunesmith.machine.detect import Machine
from tunesmith.machine.gpus import gpu_of_device
from tunesmith.models.grow import find_asked
from tunesmith.plan.cadence import choose_early_stopping, choose_eval_every, choose_save_every, interval_seconds
from tunesmith.plan.graphs import choose_graphs
from tunesmith.plan.offload import choose_offload
from tunesmith.plan.schedule import (
    as_asked,
    choose_learning_rate,
    choose_num_steps,
    choose_tokens_per_step,
    choose_warmup_steps,
)
from tunesmith.plan.search import alternatives, cannot_shard, dtype_of, larger_gpu, more_gpus, precision_of, search
from tunesmith.recipe import LoraSection, Recipe
from tunesmith.run.artefacts import ASKED, CheckpointInfo, Plan, Schedule, Sharding
from tunesmith.units import format_bytes

if TYPE_CHECKING:
    from tunesmith.data import Data
    from tunesmith.models.find import ModelSource

MAX_MICRO_BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}


def make_plan(
    recipe: Recipe, data: Data, machine: Machine, *, source: ModelSource | None = None, out: Path | None = None
) -> Plan:
    """Decide every value that training needs.

    source: the model, where it was found already. out: where the run is written, for the room on that disk.

    Raises PlanError when what was asked does not fit the machine, ModelError when the model's structure is not known.
    """
    if recipe.train.loop == "reference":
        raise PlanError(
            "train.loop: reference is a plain Trainer that `tunesmith plan` prices. Leave train.loop out to train."
        )
    if source is None and recipe.model.grow:
        source = find_asked(recipe.model, weights=False)
    shape = find_shape(recipe.model.name, recipe.model.revision) if source is None else shape_of(source)
    workload = Workload.from_data(data)
    shape.check_length(workload.train.longest, "the longest training document")
    shape.check_length(workload.eval.longest, "the longest held-out document")
    target = Target.of_machine(machine, gpu_of_device(machine.name) if machine.device == "cuda" else None)
    forecaster = Forecaster(recipe, shape, workload)
    plan, found, _ = decide(forecaster, target, out=out or Path())
    if found.fit == "no":
        raise PlanError(does_not_fit(forecaster, target, found))
    return plan


def decide(forecaster: Forecaster, target: Target, *, out: Path | None = None) -> tuple[Plan, Found, Forecast]:
    """Every value of the plan for one device, with what it will take."""
    recipe, workload = forecaster.recipe, forecaster.workload
    reasons: dict[str, str] = {}
    tokens_per_step = choose_tokens_per_step(recipe, workload, target, reasons)
    found = _choose(forecaster, target, tokens_per_step, reasons)
    choice = found.choice
    num_steps = choose_num_steps(forecaster, tokens_per_step, reasons)
    recorded = False
    if choice.update_in_backward:
        reasons["cuda_graphs"] = "weights move while backward runs"
    elif choice.offload:
        reasons["cuda_graphs"] = "layers come and go"
    else:
        recorded = choose_graphs(forecaster, target, choice, _num_passes(forecaster, target, choice), reasons)
    if recorded:
        found, recorded = _with_graphs(recipe, target, found, reasons)
    forecast = forecast_run(forecaster, target, found, num_steps=num_steps, out=out, recorded=recorded)
    eval_every, num_evaluations = choose_eval_every(recipe, forecast, num_steps, reasons)
    save_every = choose_save_every(recipe, forecast, reasons)
    forecast = forecast.with_schedule(
        num_evaluations=num_evaluations, save_interval=interval_seconds(save_every, forecast, num_steps)
    )
    early_stopping = choose_early_stopping(recipe, workload, num_evaluations - 1, reasons)
    if early_stopping is not None:
        forecast = forecast.with_best_weights()
    plan = Plan(
        method=choice.method,
        precision=choice.precision,
        dtype=choice.dtype,
        optimizer=choice.optimizer,
        learning_rate=choose_learning_rate(forecaster, choice.method, num_steps, reasons),
        warmup_steps=choose_warmup_steps(recipe, choice.method, num_steps, reasons),
        num_steps=num_steps,
        tokens_per_step=tokens_per_step,
        micro_batch_tokens=choice.micro_batch_tokens,
        gradient_checkpointing=choice.gradient_checkpointing,
        compile=_compile(recipe, reasons),
        cuda_graphs=recorded,
        update_in_backward=choice.update_in_backward,
        offload=choose_offload(forecaster, choice, target, reasons),
        lora=_lora(recipe, choice.method, reasons),
        eval_every=eval_every,
        save_every=save_every,
        save_keep=as_asked(recipe.save.keep, "save_keep", reasons),
        save_dtype=_save_dtype(forecaster, choice, reasons),
        early_stopping=early_stopping,
        max_length=_max_length(forecaster, reasons),
        **_asked_of_training(recipe, reasons),
        device=target.device,
        num_processes=target.num_processes,
        sharding=_sharding(recipe, found, target, reasons),
        reasons=reasons,
        predicted=forecast.predicted(),
    )
    return plan, found, forecast


def continue_plan(
    recipe: Recipe, data: Data, machine: Machine, begun: CheckpointInfo, *, source: ModelSource, out: Path
) -> Plan:
    """The plan of a run that goes on from a checkpoint: the one it began with, where nothing that was asked changed.

    Raises what `make_plan` does.
    """
    plan = begun.plan
    now = (recipe.model_dump(mode="json"), data.fingerprint, machine.device, machine.num_processes)
    if now == (begun.recipe, begun.data, plan.device, plan.num_processes):
        return plan
    asked = recipe.with_values(**{"train.tokens_per_step": plan.tokens_per_step})
    return make_plan(asked, data, machine, source=source, out=out).continued_from(plan)


def does_not_fit(forecaster: Forecaster, target: Target, found: Found) -> str:
    """What is needed, what is there, and what would fit instead."""
    needs, has = format_bytes(found.memory.peak_bytes), format_bytes(target.capacity_bytes)
    where = "" if target.here else f" on {target.name}"
    each = "" if target.num_processes == 1 else f"each of {target.num_processes} processes "
    text = f"plan{where}: {each}needs {needs}, {'this machine has' if target.here else 'it has'} {has} to give"
    text += "." if target.num_processes == 1 else " to it."
    options = [
        f"{describe(other)} ({format_bytes(other.memory.peak_bytes)})"
        for other in alternatives(forecaster, target, found)
    ]
    if options:
        text = f"{text} Fits: {'; '.join(options)}."
    more = more_gpus(forecaster, target, found)
    if more is not None:
        options.append("")
        each = format_bytes(more.memory.peak_bytes)
        text = f"{text} Or {more.num_processes} of these GPUs in one machine ({describe(more)}, {each} each)."
    larger = larger_gpu(forecaster, target, found)
    if larger is not None:
        gpu, other = larger
        return (
            f"{text} Or a larger GPU, from {gpu.name} on ({describe(other)}, {format_bytes(other.memory.peak_bytes)})."
        )
    return text if options or more is not None else f"{text} Nothing that is offered fits: take a smaller model."


def describe(found: Found) -> str:
    """The settings of a choice as they stand in a recipe."""
    choice = found.choice
    parts = [f"train.method: {choice.method}"]
    if found.max_length is not None:
        parts.append(f"train.max_length: {found.max_length}")
    if choice.method == "full" and choice.dtype == "bfloat16":
        parts.append("model.dtype: bfloat16")
    if choice.optimizer != "adamw":
        parts.append(f"train.optimizer: {choice.optimizer}")
    if choice.gradient_checkpointing:
        parts.append("train.gradient_checkpointing: true")
    if choice.update_in_backward:
        parts.append("weights moved in backward")
    if choice.sharding == "full":
        parts.append("train.sharding: full")
    if choice.offload:
        parts.append("train.offload: layers")
    parts.append(f"train.micro_batch_tokens: {choice.micro_batch_tokens}")
    return ", ".join(parts)


def _choose(forecaster: Forecaster, target: Target, tokens_per_step: int, reasons: dict[str, str]) -> Found:
    """Method, precision, optimizer, checkpointing and micro-batch."""
    recipe = forecaster.recipe
    train = recipe.train
    if train.optimizer == "adamw8bit" and target.here and not has_bitsandbytes():
        raise PlanError(
            "train.optimizer: adamw8bit needs bitsandbytes, which is not installed. "
            "Run: pip install 'tunesmith[qlora]', or use adamw."
        )
    if train.method == "qlora" and target.here and not has_bitsandbytes():
        raise PlanError(
            "train.method: qlora needs bitsandbytes, which is not installed. "
            "Run: pip install 'tunesmith[qlora]', or use lora."
        )
    precision, reasons["precision"] = precision_of(recipe, forecaster.shape, target)
    largest_step = forecaster.steps(tokens_per_step).largest
    share = math.ceil(largest_step / target.num_processes)
    passes = math.ceil(share / max(MAX_MICRO_BATCH_TOKENS[target.device], forecaster.workload.train.longest))
    largest = math.ceil(share / passes)
    method = "full" if train.method == "auto" else train.method
    guess = Choice(
        method=method,
        precision=precision,
        dtype=dtype_of(recipe, method, precision),
        optimizer="adamw" if train.optimizer == "auto" else train.optimizer,
        gradient_checkpointing=train.gradient_checkpointing is True,
        tokens_per_step=tokens_per_step,
        micro_batch_tokens=largest if train.micro_batch_tokens == "auto" else min(train.micro_batch_tokens, share),
        sharding="full" if train.sharding == "full" and target.num_processes > 1 else "none",
    )
    found = search(forecaster, target, guess, largest)
    _explain(recipe, guess, found, target, share, reasons)
    return found


def _explain(recipe: Recipe, guess: Choice, found: Found, target: Target, share: int, reasons: dict[str, str]) -> None:
    """Why the search ended where it did."""
    train, choice = recipe.train, found.choice
    memory = f"{format_bytes(found.memory.peak_bytes)} of {format_bytes(target.capacity_bytes)}"
    if found.fit == "no":
        scarce = plentiful_memory = f"nothing fits; this comes nearest, with {memory}"
    else:
        scarce = f"memory: {memory} with it" + (", which is tight" if found.fit == "tight" else "")
        plentiful_memory = ""

    def why(asked: object, first_guess: bool, plentiful: str) -> str:
        return ASKED if asked != "auto" else (plentiful_memory or plentiful) if first_guess else scarce

    reasons["method"] = why(train.method, choice.method == guess.method, f"full fine-tuning takes {memory}")
    if recipe.model.dtype != "auto":
        reasons["dtype"] = ASKED
    elif choice.dtype == "float32":
        reasons["dtype"] = "small updates would be lost in a shorter type"
    elif choice.method == "full":
        reasons["dtype"] = "float32 weights do not fit; rounding at random keeps small updates on average"
    else:
        reasons["dtype"] = "frozen weights lose no update in a shorter type"
    reasons["optimizer"] = why(train.optimizer, choice.optimizer == guess.optimizer, "memory allows 32-bit state")
    if choice.optimizer in _HELD:
        reasons["optimizer"] += f"; {_HELD[choice.optimizer]}"
    if choice.optimizer == "adamw8bit" and not target.here:
        reasons["optimizer"] += "; needs pip install 'tunesmith[qlora]' there"
    reasons["gradient_checkpointing"] = why(
        train.gradient_checkpointing,
        choice.gradient_checkpointing == guess.gradient_checkpointing,
        f"memory allows to keep activations: {memory}",
    )
    if choice.offload:
        reasons["gradient_checkpointing"] = "layers that stay in RAM are computed again in backward"
    if choice.update_in_backward:
        reasons["update_in_backward"] = f"{scarce}; {_cost_of_lean(recipe)}"
    else:
        reasons["update_in_backward"] = "memory allows to hold all gradients"
    passes = math.ceil(share / choice.micro_batch_tokens)
    if train.micro_batch_tokens != "auto":
        reasons["micro_batch_tokens"] = ASKED
    elif passes == 1:
        reasons["micro_batch_tokens"] = "the largest step in one pass"
    elif choice.micro_batch_tokens == guess.micro_batch_tokens:
        reasons["micro_batch_tokens"] = f"larger passes are no faster; a step takes {passes}"
    else:
        reasons["micro_batch_tokens"] = f"{scarce}; a step takes {passes} passes"
    reasons["device"] = target.name
    reasons["num_processes"] = _why_so_many(target)


def _why_so_many(target: Target) -> str:
    if target.num_processes == 1:
        return "one process"
    return "as many as were asked for" if target.here else "one for each GPU"


_HELD = {
    "adafactor": "holds a number for each row and each column",
    "muon": "holds one moment of the matrices in the layers, which it makes orthogonal at each step",
}
"""What an optimizer does otherwise than AdamW."""


def _cost_of_lean(recipe: Recipe) -> str:
    if recipe.train.max_grad_norm is None:
        return "a step that runs out of memory ends the run"
    return "each pass runs twice, for the norm to clip by (train.max_grad_norm: null does without)"


def _with_graphs(recipe: Recipe, target: Target, found: Found, reasons: dict[str, str]) -> tuple[Found, bool]:
    """What recorded steps take, and whether to record them: only where that fits as well, unless it is asked for."""
    memory = found.memory.recorded()
    more = replace(found, memory=memory, fit=target.fit(memory))
    if recipe.train.cuda_graphs is True or more.fit == "fits":
        return more, True
    needed, has = format_bytes(memory.peak_bytes), format_bytes(target.capacity_bytes)
    reasons["cuda_graphs"] = f"memory: recorded steps may take {needed} of {has}"
    return found, False


def _num_passes(forecaster: Forecaster, target: Target, choice: Choice) -> int:
    """Of the largest step."""
    share = math.ceil(forecaster.steps(choice.tokens_per_step).largest / target.num_processes)
    return math.ceil(share / choice.micro_batch_tokens)


def _save_dtype(forecaster: Forecaster, choice: Choice, reasons: dict[str, str]) -> Dtype:
    asked, base = forecaster.recipe.save.dtype, forecaster.shape.dtype
    if asked != "auto":
        return as_asked(asked, "save_dtype", reasons)
    if choice.method != "full":
        reasons["save_dtype"] = "an adapter is written as it was trained"
        return "float32"
    if choice.dtype != "float32":
        reasons["save_dtype"] = "as the weights are held"
        return choice.dtype
    if base == "float32":
        reasons["save_dtype"] = "as the weights are held, and the base model's files"
    else:
        reasons["save_dtype"] = "as the base model's files, where the held-out loss stays; float32 where not"
    return base


def _max_length(forecaster: Forecaster, reasons: dict[str, str]) -> int:
    length, positions = forecaster.max_length, forecaster.shape.max_positions
    if forecaster.recipe.train.max_length != "auto":
        reasons["max_length"] = ASKED
    elif positions == length:
        reasons["max_length"] = "all that the model can read"
    else:
        reads = "the model does not say how much it reads" if positions is None else f"the model reads {positions:,}"
        reasons["max_length"] = f"the usual length; {reads}"
    return length


def _lora(recipe: Recipe, method: str, reasons: dict[str, str]) -> LoraSection | None:
    if method == "full":
        reasons["lora"] = "all weights train"
        return None
    lora = recipe.lora
    scale = "alpha / sqrt(rank)" if lora.rslora else "alpha / rank"
    reasons["lora"] = (
        f"{ASKED}; rank {lora.rank} learns {lora.rank} directions of each weight, times {scale}, so that the best rate "
        "hardly depends on the rank"
    )
    return lora


def _sharding(recipe: Recipe, found: Found, target: Target, reasons: dict[str, str]) -> Sharding:
    """Raises PlanError for what cannot be sharded."""
    asked, choice = recipe.train.sharding, found.choice
    if asked == "none" or target.num_processes == 1:
        reasons["sharding"] = ASKED if asked == "none" else "one process"
        return "none"
    why = cannot_shard(choice)
    if asked == "full":
        if why:
            raise PlanError(
                f"train.sharding: full: {why} cannot be sharded. Expected none or auto; or full or lora in bf16 with "
                "train.optimizer: adamw instead."
            )
        reasons["sharding"] = ASKED
        return "full"
    memory = f"{format_bytes(found.memory.peak_bytes)} of {format_bytes(target.capacity_bytes)}"
    if choice.sharding == "full":
        reasons["sharding"] = (
            f"memory: a copy for each process does not fit; {target.num_processes} shards take {memory}"
        )
    elif found.fit == "no":
        reasons["sharding"] = f"{why} cannot be sharded" if why else f"nothing fits: {memory}"
    else:
        reasons["sharding"] = f"a copy for each process takes {memory}; shards would exchange all weights in each pass"
    return choice.sharding


def _asked_of_training(recipe: Recipe, reasons: dict[str, str]) -> _AskedOfTraining:
    """What the recipe decides alone."""
    train = recipe.train
    values: _AskedOfTraining = {
        "schedule": train.schedule,
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "epochs": train.epochs,
        "rehearse": train.rehearse,
        "report_to": train.report_to,
        "seed": train.seed,
    }
    reasons.update(dict.fromkeys(values, ASKED))
    return values


class _AskedOfTraining(TypedDict):
    schedule: Schedule
    weight_decay: float
    max_grad_norm: float | None
    epochs: float
    rehearse: bool
    report_to: tuple[str, ...]
    seed: int


def _compile(recipe: Recipe, reasons: dict[str, str]) -> bool:
    asked = recipe.train.compile
    reasons["compile"] = "compiling costs a minute or more, and its gain was not measured" if asked == "auto" else ASKED
    return asked is True
