"""The forecast of reserved memory against what real steps took on an H200.

benchmarks/plan_gpu.py on one NVIDIA H200, torch 2.11.0, transformers 5.17: torch.cuda.max_memory_reserved over two
optimizer steps and an evaluation of 4,096 tokens a pass, weights random, layers fused, each case in a process of its
own. None: not measured since the head's gradient is summed in place or, in fp32, since grouped heads are repeated.
Where it was forecast on the same machine, the median was 0.3% off and 95% were within 4.3%; with torch 2.13 a few cases
are forecast in another order of blocks. Megabytes of 10^6 bytes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from tunesmith.forecast.forecaster import FITS
from tunesmith.forecast.memory import forecast_memory
from tunesmith.forecast.shapes import find_shape
from tunesmith.forecast.tracing.step import Step, trace_step

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


TOOK: dict[Way, tuple[int | None, ...]] = {
    Way("full", "bf16", False, 512, False): (3662, 26609, 54945, 24541, 10165, 4847),
    Way("full", "bf16", True, 128, True): (None, 25648, 51825, 24507, 7804, 3320),
    Way("full", "bf16", True, 2048, False): (3179, 22981, 49474, 23136, 6707, 2875),
    Way("full", "fp32", True, 512, False): (None, 22330, 46225, None, None, None),
    Way("lora", "bf16", False, 1024, False): (2082, 8735, 15041, 7709, 5507, 3081),
    Way("lora", "bf16", True, 2048, True): (1072, 4249, 7730, 4027, 1896, 1028),
}
CASES = [(model, way) for way, row in TOOK.items() for model, size in zip(MODELS, row, strict=True) if size is not None]
SMALL = [(model, way) for model, way in CASES if "125m" in model or "135M" in model]


def planned(model: str, way: Way) -> float:
    step = Step(
        micro_batch=(way.length,) * (TOKENS // way.length),
        accumulates=way.accumulates,
        method=way.method,
        precision=way.precision,
        dtype="bfloat16" if way.method == "lora" else "float32",
        gradient_checkpointing=way.checkpointing,
        device="cuda",
    )
    log = trace_step(find_shape(model).config, step)
    return forecast_memory(log, "cuda", base_bytes=0).reserved_bytes / 1e6


def took(model: str, way: Way) -> int:
    found = TOOK[way][MODELS.index(model)]
    assert found is not None
    return found


@pytest.mark.parametrize(("model", "way"), SMALL)
def test_small_models_are_within_five_per_cent(model: str, way: Way) -> None:
    """What every pass takes beside tensors shows in small models: without the workspaces of cuBLAS they are 2% to 13%
    short."""
    assert planned(model, way) == pytest.approx(took(model, way), rel=0.05)


@pytest.mark.slow
def test_all_cases() -> None:
    """Median within 1%, 28 of 31 within 4%; nothing that is said to fit runs out."""
    ratios = np.array([planned(model, way) / took(model, way) for model, way in CASES])
    errors = np.abs(ratios - 1)
    assert len(CASES) == 31
    assert np.median(errors) < 0.01
    assert (errors < 0.04).sum() >= 28
    assert ratios.min() > FITS
