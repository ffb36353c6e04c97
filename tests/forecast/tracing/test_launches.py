"""Kernels of a step: the counter against the profile of a real card, and what the fused layers leave of them."""

import pytest

from tunesmith.forecast.shapes import find_shape
from tunesmith.forecast.tracing.launches import clipping_launches, count_launches, many_launches
from tunesmith.forecast.tracing.step import Step

NEO, SMOL = "EleutherAI/gpt-neo-125m", "HuggingFaceTB/SmolLM2-135M"
DOCUMENTS = (33,) * 32
"""1,056 tokens, as in the profile."""


def launches(name, *, fused=True, method="full", dtype="float32"):
    step = Step(DOCUMENTS, method=method, precision="bf16", dtype=dtype, device="cuda")
    return count_launches(find_shape(name).config, step, fused=fused).total


@pytest.mark.parametrize(("name", "measured"), [(NEO, 918), pytest.param(SMOL, 3615, marks=pytest.mark.slow)])
def test_the_counter_says_what_a_profile_measured(name, measured):
    assert launches(name, fused=False) == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize(("name", "most"), [(NEO, 400), (SMOL, 900)])
def test_fused_layers_start_few_kernels(name, most):
    assert launches(name) <= most


@pytest.mark.parametrize(("name", "most"), [(NEO, 1.3 * 400), pytest.param(SMOL, 1.3 * 900, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_start_few_more(name, most, dtype):
    assert launches(name, method="lora", dtype=dtype) <= most


def test_many_tensors_share_a_launch():
    assert many_launches("_foreach_mul_", [10] * 110) == 1
    assert many_launches("_foreach_mul_", [10] * 111) == 2
    assert many_launches("_foreach_mul_", [65_536 * 320]) == 1
    assert many_launches("_foreach_mul_", [65_536 * 320 + 1]) == 2
    assert many_launches("_fused_adamw_", [65_537] * 36) == 1
    assert many_launches("_fused_adamw_", []) == 0
    assert clipping_launches([10] * 3) == 9
