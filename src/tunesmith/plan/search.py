"""What fits a device and is fastest: method, optimizer, checkpointing and micro-batch, tried in the order of speed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from tunesmith.fast.optimizers.eight_bit import has_bitsandbytes
from tunesmith.forecast.forecaster import (
    FITS,
    TIGHT,
    Choice,
    Dtype,
    Forecaster,
    Found,
    Method,
    Optimizer,
    Precision,
    Sharding,
    Target,
)
from tunesmith.forecast.shapes import ModelShape
from tunesmith.machine.gpus import Gpu, gpus
from tunesmith.machine.interconnect import GPUS_A_MACHINE, Network
from tunesmith.machine.prices import typical_prices
from tunesmith.recipe import Recipe

COMFORTABLE_TOKENS = {"cpu": 512, "cuda": 1024}
"""A smaller micro-batch leaves the device idle; checkpointing, which costs a third more arithmetic, is then faster."""
WORTH_CONVERTING = 20_000_000
"""Parameters from which a processor that is faster in bf16 spends most of a step in matrix products."""
SHORTEST_OFFERED = 64
"""Tokens: nobody is told to cut documents to less."""
OVERFLOWS_FP16 = ("gpt_neo", "t5", "gemma", "gemma2", "gemma3_text")
"""Models whose activations pass float16's largest number."""


def search(forecaster: Forecaster, target: Target, choice: Choice, largest: int) -> Found:
    """The fastest way that fits, all that the recipe asks for kept.

    choice: asked values, and first guesses where the recipe says auto. largest: tokens of the largest micro-batch that
    can pay. When nothing fits, the way that takes least.
    """
    recipe = forecaster.recipe
    if recipe.train.loop == "reference":
        return _look(forecaster, target, choice)
    tight: list[Found] = []
    over: list[Found] = []
    for way, floor in _ways(forecaster, target, choice, largest):
        if forecaster.least_bytes(way, target.num_processes) + target.base_bytes > target.capacity_bytes:
            continue
        found = _largest_that_fits(forecaster, target, way, floor, max(floor, largest))
        if found.fit == "fits":
            return found
        (tight if found.fit == "tight" else over).append(found)
    if tight:
        return tight[0]
    if not over:
        way, floor = list(_ways(forecaster, target, choice, largest))[-1]
        over.append(_look(forecaster, target, _with_micro_batch(recipe, way, floor)))
    return min(over, key=lambda found: found.memory.peak_bytes)


def _ways(forecaster: Forecaster, target: Target, choice: Choice, largest: int) -> Iterator[tuple[Choice, int]]:
    """Ways to train in the order of speed, each with its smallest micro-batch.

    Moving weights while backward runs, which holds no gradients, is the last of full fine-tuning: a clipped step then
    runs its pass twice, and none can be tried again. Where the method is left open an adapter is the better way.
    """
    train = forecaster.recipe.train
    methods: tuple[Method, ...] = (choice.method,)
    if train.method == "auto":
        methods = ("full", "lora", "qlora") if has_8bit(target) else ("full", "lora")
    checkpointing = (False, True) if train.gradient_checkpointing == "auto" else (choice.gradient_checkpointing,)
    least = forecaster.workload.train.longest
    comfortable = max(least, COMFORTABLE_TOKENS[target.device])
    for method in methods:
        for dtype, optimizer in _weights_and_optimizers(forecaster.recipe, target, choice, method):
            streams = offloads(forecaster.recipe, target, method)
            way = replace(choice, method=method, dtype=dtype, optimizer=optimizer, offload=streams)
            for held in _shardings(forecaster.recipe, target, way):
                for floor in dict.fromkeys((comfortable, least)):
                    for saved in (True,) if streams else checkpointing:
                        yield replace(way, sharding=held, gradient_checkpointing=saved), floor
        if (
            method == "full"
            and train.method == "full"
            and way.dtype == "bfloat16"
            and _in_one_pass(forecaster, target, choice)
        ):
            for saved in checkpointing:
                yield replace(way, gradient_checkpointing=saved, update_in_backward=True), largest


def _shardings(recipe: Recipe, target: Target, way: Choice) -> tuple[Sharding, ...]:
    """A copy for each process; then, where the recipe leaves it open, shards, which exchange all weights in a pass."""
    if recipe.train.sharding != "auto" or target.num_processes == 1 or cannot_shard(way):
        return (way.sharding,)
    return ("none", "full")


def cannot_shard(choice: Choice) -> str:
    """Why a choice cannot be sharded; empty where it can."""
    if choice.method == "qlora":
        return "quantised weights"
    if choice.precision == "fp16":
        return "fp16"
    if choice.offload:
        return "what stays in RAM"
    if choice.optimizer in ("adafactor", "muon"):
        return f"{choice.optimizer}, which looks at whole matrices,"
    return "8-bit moments" if choice.optimizer == "adamw8bit" else ""


def offloads(recipe: Recipe, target: Target, method: Method) -> bool:
    """Whether frozen layers stay in RAM: asked for, where some are frozen and the device has a memory of its own."""
    return recipe.train.offload == "layers" and method != "full" and target.device == "cuda"


def _in_one_pass(forecaster: Forecaster, target: Target, choice: Choice) -> bool:
    """Whether a step is one pass of one process, as weights that move while backward runs need it."""
    step = forecaster.steps(choice.tokens_per_step).largest
    return target.num_processes == 1 and choice.precision != "fp16" and choice.micro_batch_tokens >= step


def _weights_and_optimizers(
    recipe: Recipe, target: Target, choice: Choice, method: Method
) -> list[tuple[Dtype, Optimizer]]:
    """How weights and moments may be held, the most exact first: 16, 8 and 6 bytes a parameter with its gradient.

    Both of the latter round bfloat16 weights at random. Where these may not be, 8-bit moments leave 10 bytes.
    """
    held = dtype_of(recipe, method, choice.precision)
    ways: list[tuple[Dtype, Optimizer]] = [(held, choice.optimizer)]
    if method != "full":
        return ways
    if held == "float32" and choice.precision == "bf16" and recipe.model.dtype == "auto":
        held = "bfloat16"
        ways.append((held, choice.optimizer))
    if recipe.train.optimizer == "auto" and has_8bit(target):
        ways.append((held, "adamw8bit"))
    return ways


def has_8bit(target: Target) -> bool:
    """Whether 8-bit moments and 4-bit weights may be chosen: on a GPU, and where that is here, with the library."""
    return target.device == "cuda" and (not target.here or has_bitsandbytes())


def _largest_that_fits(forecaster: Forecaster, target: Target, way: Choice, floor: int, largest: int) -> Found:
    """The largest micro-batch of `floor` to `largest` tokens, halved as often as needed, that fits."""
    recipe = forecaster.recipe
    whole = _look(forecaster, target, _with_micro_batch(recipe, way, largest))
    if whole.fit == "fits" or recipe.train.micro_batch_tokens != "auto" or floor >= largest:
        return whole
    if _at_least(whole, floor) > target.capacity_bytes * TIGHT:
        return whole
    smallest = _look(forecaster, target, _with_micro_batch(recipe, way, floor))
    if smallest.fit != "fits":
        return smallest
    sizes = [math.ceil(largest / parts) for parts in _powers_of_two(largest // floor)]
    for size in sizes:
        if _between(smallest, whole, size) > target.capacity_bytes * FITS:
            continue
        found = _look(forecaster, target, _with_micro_batch(recipe, way, size))
        if found.fit == "fits":
            return found
    return smallest


def _at_least(whole: Found, size: int) -> float:
    """What a micro-batch of `size` tokens takes at least: what grows with the tokens shrinks in proportion, and the
    allocator may then waste nothing."""
    memory = whole.memory
    growing = sum(memory.components[name] for name in ("activations", "logits", "temporary"))
    return memory.base_bytes + memory.allocated_bytes - growing * (1 - size / whole.choice.micro_batch_tokens)


def _powers_of_two(limit: int) -> list[int]:
    return [1 << power for power in range(1, max(1, limit).bit_length())]


def _between(smallest: Found, whole: Found, size: int) -> float:
    """Memory of a micro-batch of `size` tokens: it grows linearly."""
    low, high = smallest.choice.micro_batch_tokens, whole.choice.micro_batch_tokens
    share = (size - low) / (high - low)
    return smallest.memory.peak_bytes + share * (whole.memory.peak_bytes - smallest.memory.peak_bytes)


def _with_micro_batch(recipe: Recipe, way: Choice, size: int) -> Choice:
    asked = recipe.train.micro_batch_tokens
    return replace(way, micro_batch_tokens=size if asked == "auto" else way.micro_batch_tokens)


def _look(forecaster: Forecaster, target: Target, choice: Choice) -> Found:
    memory = forecaster.memory(choice, target)
    return Found(choice, memory, target.fit(memory))


def precision_of(recipe: Recipe, shape: ModelShape, target: Target) -> tuple[Precision, str]:
    """Type of the arithmetic, and why."""
    asked = recipe.train.precision
    if asked != "auto":
        emulated = target.device == "cpu" and asked != "fp32" and not target.bf16
        return asked, "the recipe says so" + ("; fp32 is many times faster on this processor" if emulated else "")
    if target.device == "cpu":
        if not target.bf16:
            return "fp32", "the fastest type of this processor"
        if shape.num_parameters < WORTH_CONVERTING:
            return "fp32", f"matrices of {shape.num_parameters:,} parameters are too small for bf16 to pay"
        return "bf16", "this processor multiplies bf16 matrices faster (measured); weights and sums stay fp32"
    if target.bf16:
        return "bf16", f"{target.name} has native bf16"
    if shape.config.model_type in OVERFLOWS_FP16:
        return "fp32", f"{target.name} has no bf16, and this model overflows fp16"
    return "fp16", f"{target.name} has no bf16"


def dtype_of(recipe: Recipe, method: str, precision: Precision) -> Dtype:
    """Type in which weights are held."""
    asked = recipe.model.dtype
    if asked != "auto":
        return asked
    if method == "full" or precision == "fp32":
        return "float32"
    return "bfloat16" if precision == "bf16" else "float16"


def alternatives(forecaster: Forecaster, target: Target, found: Found) -> Iterator[Found]:
    """What would fit when what was asked does not, the nearest first: shorter documents, shards, bfloat16 weights,
    these with 8-bit moments, with Adafactor's state, LoRA, QLoRA, either of these with frozen layers in RAM."""
    shorter = _shorter(forecaster, target, found)
    if shorter is not None:
        yield shorter
    recipe, choice = forecaster.recipe, replace(found.choice, update_in_backward=False)
    ways: list[Choice] = []
    if recipe.train.sharding == "none" and target.num_processes > 1 and not cannot_shard(choice):
        ways.append(replace(choice, sharding="full", gradient_checkpointing=True))
    if choice.method == "full":
        lean = replace(choice, gradient_checkpointing=True)
        if choice.dtype == "float32" and target.bf16:
            lean = replace(lean, dtype="bfloat16", precision="bf16")
            ways.append(lean)
        if choice.optimizer == "adamw" and target.device == "cuda":
            ways.append(replace(lean, optimizer="adamw8bit", sharding="none"))
        if choice.optimizer != "adafactor" and recipe.train.sharding != "full":
            ways.append(replace(lean, optimizer="adafactor", sharding="none"))
    for method in ("lora", "qlora") if target.device == "cuda" else ("lora",):
        if (choice.method, method) in (("full", "lora"), ("full", "qlora"), ("lora", "qlora")):
            dtype = dtype_of(recipe, method, choice.precision)
            way = replace(choice, method=method, dtype=dtype, optimizer="adamw", gradient_checkpointing=True)
            ways.append(replace(way, sharding="none") if cannot_shard(way) else way)
    if target.device == "cuda" and target.num_processes == 1 and recipe.train.sharding != "full":
        streamed = [way for way in ways if way.method in ("lora", "qlora")]
        if choice.method in ("lora", "qlora") and not choice.offload:
            streamed.insert(0, replace(choice, gradient_checkpointing=True))
        ways += [replace(way, offload=True) for way in streamed]
    least = forecaster.workload.train.longest
    for way in ways:
        size = min(max(least, COMFORTABLE_TOKENS[target.device]), max(least, choice.micro_batch_tokens))
        if forecaster.least_bytes(way, target.num_processes) + target.base_bytes <= target.capacity_bytes:
            other = _look(forecaster, target, replace(way, micro_batch_tokens=size))
            if other.fit != "no":
                yield other


def _shorter(forecaster: Forecaster, target: Target, found: Found) -> Found | None:
    """The longest half, quarter, ... of the longest document with which the choice fits."""
    length = forecaster.workload.train.longest // 2
    while length >= SHORTEST_OFFERED:
        if _at_least(found, length) <= target.capacity_bytes * FITS:
            look = _look(forecaster.shortened(length), target, replace(found.choice, micro_batch_tokens=length))
            if look.fit == "fits":
                return replace(look, max_length=length)
        length //= 2
    return None


def larger_gpu(forecaster: Forecaster, target: Target, found: Found) -> tuple[Gpu, Found] | None:
    """The smallest GPU of the table on which what was asked fits in its leanest way; None when there is none.

    Of GPUs that are sold with as much memory, the one that typically costs least.
    """
    choice, prices = found.choice, typical_prices()
    for gpu in sorted(gpus(), key=lambda gpu: (gpu.sold_gigabytes, prices.of(gpu.key) or math.inf, -gpu.matrix)):
        other = replace(Target.of_gpu(gpu), num_processes=target.num_processes)
        if not gpu.bf16 or (target.device == "cuda" and other.capacity_bytes <= target.capacity_bytes):
            continue
        precision, _ = precision_of(forecaster.recipe, forecaster.shape, other)
        dtype = choice.dtype if target.device == "cuda" else dtype_of(forecaster.recipe, choice.method, precision)
        lean = replace(choice, precision=precision, dtype=dtype)
        if forecaster.least_bytes(lean, other.num_processes) + other.base_bytes <= other.capacity_bytes * FITS:
            look = _look(forecaster, other, lean)
            if look.fit == "fits":
                return gpu, look
    return None


def more_gpus(forecaster: Forecaster, target: Target, found: Found) -> Found | None:
    """Shards on the fewest GPUs of this kind in one machine that hold what was asked; None where none do, or for a
    processor. Its `num_processes` says how many."""
    least, choice = forecaster.workload.train.longest, found.choice
    if choice.optimizer == "adamw8bit" and forecaster.recipe.train.optimizer == "auto":
        choice = replace(choice, optimizer="adamw")
    if target.gpu is None or cannot_shard(choice) or forecaster.recipe.train.sharding == "none":
        return None
    size = max(least, min(choice.micro_batch_tokens, COMFORTABLE_TOKENS[target.device]))
    choice = replace(choice, sharding="full", update_in_backward=False, micro_batch_tokens=size)
    number = 2 * target.num_processes
    while number <= GPUS_A_MACHINE:
        several = replace(target, num_processes=number, network=Network.of_gpus(target.gpu, number, 1))
        if forecaster.least_bytes(choice, number) + several.base_bytes <= several.capacity_bytes * FITS:
            look = _look(forecaster, several, choice)
            if look.fit == "fits":
                return replace(look, num_processes=number)
        number *= 2
    return None
