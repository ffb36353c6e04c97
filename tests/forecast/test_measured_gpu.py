"""The forecast of reserved memory against what real steps took on an H200.

benchmarks/plan_gpu.py on one NVIDIA H200, torch 2.11.0, transformers 5.17: torch.cuda.max_memory_reserved over two
optimizer steps and an evaluation of 4,096 tokens a pass, weights random. Then the optimizer made its state in its first
step, and layers were not fused, so the forecast is looked at like this. The loss has taken its buffers in another order
since; with the steps of that day the median was 0.2% off, 28 of 30 were within 3%, and none was more than 7.0% short.
Megabytes of 10^6 bytes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from tunesmith.forecast.forecaster import FITS
from tunesmith.forecast.memory import forecast_memory
from tunesmith.forecast.shapes import find_shape
from tunesmith.forecast.step import Step, trace_step
from tunesmith.forecast.trace import Log

MODELS = (
    "EleutherAI/gpt-neo-125m",
    "EleutherAI/gpt-neo-1.3B",
    "EleutherAI/gpt-neo-2.7B",
    "meta-llama/Llama-3.2-1B",
    "HuggingFaceTB/SmolLM2-360M",
    "HuggingFaceTB/SmolLM2-135M",
)
TOKENS = 4096


class Way(NamedTuple):
    method: Any
    precision: Any
    checkpointing: bool
    length: int
    accumulates: bool


TOOK = {
    Way("full", "bf16", False, 512, False): (3639, 25577, 49698, 24375, 9552, 4567),
    Way("full", "bf16", True, 128, True): (3169, 26053, 52100, 25562, 7970, 3414),
    Way("full", "bf16", True, 2048, False): (2707, 22410, 46081, 21957, 6463, 2919),
    Way("full", "fp32", True, 512, False): (2661, 22289, 45915, 22790, 6916, 2890),
    Way("lora", "bf16", False, 1024, False): (1955, 9297, 16091, 7280, 4836, 2859),
}
SMALL = [
    (model, way)
    for way in TOOK
    for model in MODELS
    if "125m" in model or ("135M" in model and way.method == "full" and way.length < 2048)
]


def state_when_first_used(log: Log) -> Log:
    """The optimizer's state made after the first backward pass instead of before the first forward pass."""
    state = [part for part in log.segments if part.phase == "state"]
    rest = [part for part in log.segments if part.phase != "state"]
    place = next(number for number, part in enumerate(rest) if part.phase == "zero_grad")
    return Log([*rest[:place], *state, *rest[place:]], log.labels, log.num_trained)


def planned(model: str, way: Way) -> float:
    step = Step(
        micro_batch=(way.length,) * (TOKENS // way.length),
        accumulates=way.accumulates,
        method=way.method,
        precision=way.precision,
        dtype="bfloat16" if way.method == "lora" else "float32",
        gradient_checkpointing=way.checkpointing,
        device="cuda",
        fused=False,
    )
    log = state_when_first_used(trace_step(find_shape(model).config, step))
    return forecast_memory(log, "cuda", base_bytes=0).reserved_bytes / 1e6


def took(model: str, way: Way) -> int:
    return TOOK[way][MODELS.index(model)]


@pytest.mark.parametrize(("model", "way"), SMALL)
def test_small_models_are_within_five_per_cent(model: str, way: Way) -> None:
    """What every pass takes beside tensors shows in small models: without the workspaces of cuBLAS they are 2% to 13%
    short."""
    assert planned(model, way) == pytest.approx(took(model, way), rel=0.05)


@pytest.mark.slow
def test_all_cases() -> None:
    """Median within 1%, 24 of 30 within 3%; nothing that is said to fit runs out."""
    ratios = np.array([planned(model, way) / took(model, way) for way in TOOK for model in MODELS])
    errors = np.abs(ratios - 1)
    assert np.median(errors) < 0.01
    assert (errors < 0.03).sum() >= 24
    assert ratios.min() > FITS
