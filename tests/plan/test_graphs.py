"""When steps are recorded as CUDA graphs, and why not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tunesmith.errors import PlanError
from tunesmith.forecast.forecaster import Choice, Forecaster, Target
from tunesmith.forecast.shapes import find_shape
from tunesmith.forecast.workload import Workload
from tunesmith.plan.graphs import choose_graphs, launch_share
from tunesmith.recipe import Recipe
from tunesmith.run.artefacts import ASKED

SMALL = Choice("full", "bf16", "float32", "adamw", False, 1024, 1056)


@pytest.fixture
def decide(
    new_recipe: Callable[..., Recipe], new_target: Callable[..., Target], workload: Workload
) -> Callable[..., tuple[bool, str]]:
    """decide(choice=changes, target=changes, config=changes, num_passes=1, **train): what is decided, and why."""

    def call(
        choice: dict[str, Any] | None = None,
        target: dict[str, Any] | None = None,
        config: dict[str, Any] | None = None,
        num_passes: int = 1,
        **train: Any,
    ) -> tuple[bool, str]:
        shape = find_shape("EleutherAI/gpt-neo-125m")
        shape.config.update(config or {})
        forecaster, reasons = Forecaster(new_recipe(**train), shape, workload), dict[str, str]()
        device = new_target(80, **(target or {}))
        on = choose_graphs(forecaster, device, replace(SMALL, **(choice or {})), num_passes, reasons)
        return on, reasons["cuda_graphs"]

    return call


def test_small_steps_on_a_gpu_are_recorded(decide: Callable[..., tuple[bool, str]]) -> None:
    assert decide() == (True, "steps are small: without, the GPU would wait for its launches")
    assert decide(cuda_graphs=True) == (True, ASKED)
    assert decide(cuda_graphs=False) == (False, ASKED)


def test_large_steps_are_not(
    decide: Callable[..., tuple[bool, str]], new_recipe: Callable[..., Recipe], workload: Workload
) -> None:
    on, why = decide(choice={"tokens_per_step": 1 << 20})
    assert not on
    assert "of a step of 1,048,576 tokens" in why
    assert decide(choice={"tokens_per_step": 1 << 20}, cuda_graphs=True) == (True, ASKED)
    forecaster = Forecaster(new_recipe(), find_shape("EleutherAI/gpt-neo-125m"), workload)
    unknown = Target("some GPU", "cuda", 1, 0, bf16=True, flash=True)
    assert launch_share(forecaster, unknown, SMALL) is None
    assert decide(choice={"tokens_per_step": 1 << 20}, target={"gpu": None})[0]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"target": {"device": "cpu"}}, "no CUDA device"),
        ({"target": {"flash": False}}, "padded without flash attention"),
        ({"target": {"num_processes": 2}}, "2 processes exchange gradients"),
        ({"choice": {"precision": "fp32"}}, "fp32: flash attention takes bfloat16"),
        ({"choice": {"method": "qlora"}}, "quantised weights"),
        ({"compile": True}, "train.compile"),
        ({"num_passes": 3}, "a step takes 3 passes"),
        ({"config": {"attention_dropout": 0.1}}, r"config\.attention_dropout"),
        ({"config": {"attn_logit_softcapping": 50.0}}, "capped scores"),
        ({"config": {"rope_parameters": {"rope_type": "dynamic"}}}, "depends on the length"),
        ({"config": {"rope_parameters": {"full": {"rope_type": "longrope"}}}}, "depends on the length"),
        ({"config": {"resid_dropout": 0.1}, "choice": {"gradient_checkpointing": True}}, "dropout look at random"),
    ],
    ids=str,
)
def test_what_cannot_be_recorded_says_why(
    decide: Callable[..., tuple[bool, str]], changes: dict[str, Any], why: str
) -> None:
    on, found = decide(**changes)
    assert not on
    with pytest.raises(PlanError, match=why):
        decide(**{**changes, "cuda_graphs": True, "target": {**changes.get("target", {}), "here": True}})
    elsewhere = {**changes.get("target", {}), "here": False}
    assert decide(**{**changes, "cuda_graphs": True, "target": elsewhere}) == (False, found)
