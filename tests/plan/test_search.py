"""What fits is found, the fastest way first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tunesmith.forecast.forecaster import FITS, Choice, Forecaster, Found, Target
from tunesmith.forecast.memory import MemoryForecast
from tunesmith.forecast.shapes import ModelShape, find_shape
from tunesmith.forecast.tracing.step import Step
from tunesmith.forecast.tracing.trace import Log
from tunesmith.forecast.workload import Split, Workload
from tunesmith.machine.gpus import find_gpu, gpus
from tunesmith.plan.decide import describe
from tunesmith.plan.search import _ways, alternatives, dtype_of, larger_gpu, precision_of, search
from tunesmith.recipe import Recipe

NewRecipe = Callable[..., Recipe]
NewTarget = Callable[..., Target]


@pytest.fixture(scope="session")
def shape(wide_config: Any) -> ModelShape:
    return ModelShape("wide", wide_config, 850_000, "made here")


@pytest.fixture(scope="session")
def logs() -> dict[Step, Log]:
    """Steps of the shape that were traced; tests share them."""
    return {}


@pytest.fixture
def look(shape: ModelShape, workload: Workload, new_recipe: NewRecipe, logs: dict[Step, Log]) -> Callable[..., Found]:
    """look(target, **train): the search for a step of 2,048 tokens."""

    def run(target: Target, **train: Any) -> Found:
        recipe = new_recipe(tokens_per_step=2048, **train)
        forecaster = Forecaster(recipe, shape, workload, logs)
        largest = forecaster.steps(2048).largest
        method = "full" if recipe.train.method == "auto" else recipe.train.method
        asked = recipe.train.micro_batch_tokens
        first = Choice(
            method=method,
            precision="bf16" if target.device == "cuda" else "fp32",
            dtype=dtype_of(recipe, method, "fp32"),
            optimizer="adamw",
            gradient_checkpointing=recipe.train.gradient_checkpointing is True,
            tokens_per_step=2048,
            micro_batch_tokens=largest if asked == "auto" else asked,
        )
        return search(forecaster, target, first, largest)

    return run


def test_with_room_the_first_guess_stays(look: Callable[..., Found], new_target: NewTarget) -> None:
    found = look(new_target(10, "cpu"))
    assert found.fit == "fits"
    assert not found.choice.gradient_checkpointing
    assert found.choice.micro_batch_tokens > 1900


def test_short_memory_makes_micro_batches_smaller_first(look: Callable[..., Found], new_target: NewTarget) -> None:
    whole = look(new_target(10, "cpu")).memory.peak_bytes
    found = look(new_target(0.75 * whole / 1e9 / FITS, "cpu"))
    assert found.fit == "fits"
    assert not found.choice.gradient_checkpointing
    assert 512 <= found.choice.micro_batch_tokens < 1100


def test_then_activations_are_recomputed(look: Callable[..., Found], new_target: NewTarget) -> None:
    smaller = look(new_target(10, "cpu"), micro_batch_tokens=512).memory.peak_bytes
    found = look(new_target(0.93 * smaller / 1e9 / FITS, "cpu"))
    assert (found.fit, found.choice.gradient_checkpointing) == ("fits", True)


def test_what_the_recipe_says_is_never_changed(look: Callable[..., Found], new_target: NewTarget) -> None:
    asked = {"gradient_checkpointing": False, "micro_batch_tokens": 2000, "method": "full", "optimizer": "adamw"}
    found = look(new_target(0.06, "cpu"), **asked)
    assert found.fit == "no"
    assert (found.choice.gradient_checkpointing, found.choice.micro_batch_tokens) == (False, 2000)


def test_method_auto_takes_full_where_it_fits_and_lora_where_not(
    look: Callable[..., Found], new_target: NewTarget
) -> None:
    assert look(new_target(10), method="auto").choice.method == "full"
    full = look(new_target(10), optimizer="adamw", micro_batch_tokens=100, gradient_checkpointing=True)
    found = look(new_target(0.5 * full.memory.peak_bytes / 1e9), method="auto", optimizer="adamw")
    assert (found.fit, found.choice.method) == ("fits", "lora")
    assert found.choice.dtype == "bfloat16"


def test_tight_is_said_when_there_is_no_margin(look: Callable[..., Found], new_target: NewTarget) -> None:
    asked = {"gradient_checkpointing": False, "micro_batch_tokens": 2000}
    needed = look(new_target(10, "cpu"), **asked).memory.peak_bytes
    assert look(new_target(needed / 1e9 / 0.95, "cpu"), **asked).fit == "tight"
    assert look(new_target(needed / 1e9 / 1.05, "cpu"), **asked).fit == "no"


def test_alternatives_fit_and_keep_to_the_device(
    shape: ModelShape, workload: Workload, new_recipe: NewRecipe, new_target: NewTarget, logs: dict[Step, Log]
) -> None:
    forecaster = Forecaster(new_recipe(tokens_per_step=2048), shape, workload, logs)
    choice = Choice("full", "bf16", "float32", "adamw", False, 2048, 2000)
    memory = forecaster.memory(choice, new_target(10))
    target = new_target(0.6 * memory.peak_bytes / 1e9)
    others = list(alternatives(forecaster, target, Found(choice, memory, "no")))
    assert others
    assert all(other.fit != "no" for other in others)
    assert {other.choice.method for other in others} <= {"full", "lora", "qlora"}
    on_cpu = replace(target, device="cpu")
    assert all(other.choice.method == "lora" for other in alternatives(forecaster, on_cpu, Found(choice, memory, "no")))


def test_shorter_documents_are_offered_where_one_does_not_fit_alone(
    shape: ModelShape, new_recipe: NewRecipe, new_target: NewTarget, logs: dict[Step, Log]
) -> None:
    lengths = np.array([1200] + [40] * 300)
    workload = Workload(Split(lengths, int(lengths.sum())), Split(lengths[:0], 0), "made here")
    forecaster = Forecaster(new_recipe(), shape, workload, logs)
    choice = Choice("full", "fp32", "float32", "adamw", False, 256, 1200)
    memory = forecaster.memory(choice, new_target(10, "cpu"))
    offered = next(
        alternatives(forecaster, new_target(0.7 * memory.peak_bytes / 1e9, "cpu"), Found(choice, memory, "no"))
    )
    assert (offered.fit, offered.max_length, offered.choice.micro_batch_tokens) == ("fits", 600, 600)
    assert "train.max_length: 600" in describe(offered)
    assert 0.4 < offered.memory.peak_bytes / memory.peak_bytes < 0.65


def test_a_larger_gpu_is_the_smallest_that_fits(
    shape: ModelShape, workload: Workload, new_recipe: NewRecipe, new_target: NewTarget, monkeypatch: Any
) -> None:
    from tunesmith.plan import search as module

    forecaster = Forecaster(new_recipe(), shape, workload)
    choice = Choice("full", "bf16", "float32", "adamw", True, 512, 600)
    needed = MemoryForecast("cuda", int(30e9), int(30e9), int(30e9), 0, {}, {})
    monkeypatch.setattr(module, "_look", lambda _, target, way: Found(way, needed, target.fit(needed)))
    found = larger_gpu(forecaster, new_target(20), Found(choice, needed, "no"))
    assert found is not None
    assert found[0].memory_bytes == min(g.memory_bytes for g in gpus() if g.bf16 and g.memory_bytes * FITS >= 30e9)
    assert larger_gpu(forecaster, new_target(1000), Found(choice, needed, "no")) is None


def test_a_step_is_traced_once_for_many_devices(
    shape: ModelShape, workload: Workload, new_recipe: NewRecipe, new_target: NewTarget, monkeypatch: Any
) -> None:
    from tunesmith.forecast import forecaster as module

    traced: list[Any] = []
    trace_step = module.trace_step

    def counted(config: Any, step: Any) -> Any:
        traced.append(step)
        return trace_step(config, step)

    monkeypatch.setattr(module, "trace_step", counted)
    forecaster = Forecaster(new_recipe(), shape, workload)
    choice = Choice("full", "bf16", "float32", "adamw", False, 512, 600)
    for target in (new_target(10), new_target(20)):
        forecaster.memory(choice, target)
        forecaster.memory(replace(choice, optimizer="adamw8bit"), target)
    assert len(traced) == 1


@pytest.mark.parametrize(
    ("gpu", "model", "expected"),
    [
        ("a100", "EleutherAI/gpt-neo-125m", "bf16"),
        ("t4", "EleutherAI/gpt-neo-125m", "fp32"),
        ("t4", "HuggingFaceTB/SmolLM2-135M", "fp16"),
    ],
)
def test_precision_follows_the_gpu_and_the_model(
    gpu: str, model: str, expected: str, new_recipe: NewRecipe, new_target: NewTarget
) -> None:
    target = Target.of_gpu(find_gpu(gpu))
    assert precision_of(new_recipe(), find_shape(model), target)[0] == expected
    assert precision_of(new_recipe(precision="fp32"), find_shape(model), target) == ("fp32", "the recipe says so")


def test_precision_of_a_processor_is_what_it_multiplies_faster(
    shape: ModelShape, new_recipe: NewRecipe, new_target: NewTarget
) -> None:
    large, cpu = find_shape("EleutherAI/gpt-neo-125m"), new_target(8, "cpu")
    assert precision_of(new_recipe(), large, replace(cpu, bf16=True))[0] == "bf16"
    assert precision_of(new_recipe(), large, replace(cpu, bf16=False))[0] == "fp32"
    asked = precision_of(new_recipe(precision="bf16"), large, replace(cpu, bf16=False))
    assert asked == ("bf16", "the recipe says so; fp32 is many times faster on this processor")
    assert precision_of(new_recipe(), shape, replace(cpu, bf16=True))[0] == "fp32", "too small to pay"


def test_weights_that_are_trained_stay_float32(new_recipe: NewRecipe) -> None:
    recipe = new_recipe()
    assert dtype_of(recipe, "full", "bf16") == "float32"
    assert dtype_of(recipe, "lora", "bf16") == "bfloat16"
    assert dtype_of(recipe, "qlora", "fp16") == "float16"
    assert dtype_of(recipe.with_values(**{"model.dtype": "bfloat16"}), "full", "bf16") == "bfloat16"


def test_weights_that_move_in_backward_are_the_last_way_of_full_fine_tuning(
    look: Callable[..., Found], shape: ModelShape, workload: Workload, new_recipe: NewRecipe, logs: dict[Step, Log]
) -> None:
    """In one pass alone, with weights in bfloat16."""
    target = Target.of_gpu(find_gpu("a100-80gb"))
    forecaster = Forecaster(new_recipe(tokens_per_step=2048, method="full"), shape, workload, logs)
    roomy, largest = look(target).choice, forecaster.steps(2048).largest
    assert not roomy.update_in_backward
    ways = list(_ways(forecaster, target, roomy, largest))
    lean = [(way, floor) for way, floor in ways if way.update_in_backward]
    assert len(lean) == 2
    assert ways[-2:] == lean
    assert {(way.dtype, floor) for way, floor in lean} == {("bfloat16", largest)}
    for other in (replace(roomy, micro_batch_tokens=512), replace(roomy, precision="fp16")):
        assert not any(way.update_in_backward for way, _ in _ways(forecaster, target, other, largest))


def test_frozen_layers_in_ram_take_two_on_the_device(
    shape: ModelShape, workload: Workload, new_recipe: NewRecipe, new_target: NewTarget, logs: dict[Step, Log]
) -> None:
    """Asked for, they are checkpointed; offered last, where nothing else fits; a processor has no use for them."""
    asked = Forecaster(new_recipe(method="lora", offload="layers"), shape, workload, logs)
    gpu, cpu = Target.of_gpu(find_gpu("a100-80gb")), new_target(8, "cpu")
    choice = Choice("lora", "bf16", "bfloat16", "adamw", False, 512, 600)
    ways = [way for way, _ in _ways(asked, gpu, choice, 600)]
    assert {(way.offload, way.gradient_checkpointing) for way in ways} == {(True, True)}
    assert not any(way.offload for way, _ in _ways(asked, cpu, choice, 600))
    held, streamed = (asked.memory(replace(ways[0], offload=value), gpu) for value in (False, True))
    assert 0 < held.components["weights"] - streamed.components["weights"] < asked.bytes_in_ram(choice)
    plain = Forecaster(new_recipe(method="lora"), shape, workload, logs)
    roomy = list(alternatives(plain, gpu, Found(choice, held, "no")))
    assert [other.choice.offload for other in roomy] == [False, True, True]
    assert [other.choice.method for other in roomy] == ["qlora", "lora", "qlora"]
    assert "train.offload: layers" in describe(roomy[1])
