"""A model of like layers, traced as five groups, gives the log of the whole."""

from __future__ import annotations

from typing import Any

import pytest

from tunesmith.forecast.allocator import CachingAllocator
from tunesmith.forecast.tracing.splice import NotAlike, repeat_layers
from tunesmith.forecast.tracing.step import Step, period_of, trace_step
from tunesmith.forecast.tracing.trace import Event, Log, Segment

DOCUMENTS = (40, 40, 25, 20, 9)
GPU: dict[str, Any] = {"device": "cuda", "precision": "bf16"}
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "accumulated": {"accumulates": True},
    "checkpointed": {"gradient_checkpointing": True},
    "lora": {"method": "lora"},
    "lora checkpointed": {"method": "lora", "gradient_checkpointing": True, "accumulates": True},
    "gpu": GPU,
    "gpu without flash": {**GPU, "precision": "fp16", "flash": False},
    "qlora": {**GPU, "method": "qlora", "dtype": "bfloat16"},
    "reference": {"kind": "reference"},
}


CASES = [("llama", variant) for variant in VARIANTS] + [("neo", "full"), ("neo", "lora checkpointed"), ("neo", "gpu")]


@pytest.mark.parametrize(("model", "variant"), CASES)
def test_spliced_log_equals_that_of_the_whole_model(model: str, variant: str, request: pytest.FixtureRequest) -> None:
    config = request.getfixturevalue(f"{model}_config")
    step = Step(DOCUMENTS if variant != "reference" else (32, 32), **VARIANTS[variant])
    short, whole = (trace_step(config, step, splice=splice) for splice in (True, False))
    assert short.peak_bytes() == whole.peak_bytes()
    assert short.components_at_peak() == whole.components_at_peak()
    assert short.num_trained == whole.num_trained
    assert short.work("forward", "backward") == whole.work("forward", "backward")
    assert short.work("evaluation") == whole.work("evaluation")
    for phase in ("forward", "backward", "evaluation"):
        assert short.phase_peaks()[phase] == whole.phase_peaks()[phase]
    # The optimizer takes the groups one by one, so that its scalars and the order of its state differ a little.
    assert short.phase_peaks()["optimizer"] == pytest.approx(whole.phase_peaks()["optimizer"], rel=0.01)
    reserved = [CachingAllocator().replay(log.events()).peak_reserved for log in (short, whole)]
    assert reserved[0] == pytest.approx(reserved[1], rel=0.06)


def test_every_birth_of_a_spliced_log_dies_at_most_once(llama_config: Any) -> None:
    born: set[Any] = set()
    died: set[Any] = set()
    for event in trace_step(llama_config, Step(DOCUMENTS, accumulates=True)).events():
        if event.born:
            assert event.storage not in born
            born.add(event.storage)
        else:
            assert event.storage in born - died
            died.add(event.storage)


def test_groups_that_differ_are_noticed() -> None:
    def segment(group: int, size: int) -> Segment:
        return Segment("forward", group, [Event(group + 1, size, True)])

    log = Log([segment(group, 100 if group != 2 else 200) for group in range(5)])
    with pytest.raises(NotAlike):
        repeat_layers(log, 3)


def test_period_of_alternating_layers(llama_config: Any, neo_config: Any) -> None:
    assert (period_of(llama_config, 8), period_of(neo_config, 12)) == (1, 2)
