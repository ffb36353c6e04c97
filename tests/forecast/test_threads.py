"""A plan can be made in one thread while another trains: nothing that a trace pretends leaves its thread."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tunesmith import fast
from tunesmith.forecast.tracing import simulate
from tunesmith.forecast.tracing.step import Step, trace_step
from tunesmith.step import StepSettings, clip_gradients, make_optimizer, prepare_model

ROUNDS = 4
STEPS = 6
PRETENDED: dict[str, Any] = {"device": "cuda", "gradient_checkpointing": True}
"""In float32: autocast's cache of converted weights is one for all threads, and whoever leaves autocast empties it."""


def trained_losses(config: Any, wait: Callable[[], object]) -> list[float]:
    """Real steps on this processor; `wait` is called before each round of them."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    settings = StepSettings(gradient_checkpointing=True, learning_rate=1e-2)
    model = prepare_model(AutoModelForCausalLM.from_config(copy.deepcopy(config)), settings)
    optimizer = make_optimizer(model.parameters(), settings)
    batch = fast.flatten([(range(1, 9 + number), None) for number in range(5)])
    losses = []
    for _ in range(ROUNDS):
        wait()
        for _ in range(STEPS):
            loss = model(flat=batch, denominator=batch.num_targets).loss
            loss.backward()
            clip_gradients(model.parameters(), settings.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    return losses


def planned(config: Any, wait: Callable[[], object]) -> list[Any]:
    """What a GPU would take that is not here."""
    found = []
    for number in range(ROUNDS):
        wait()
        kind: Any = {"kind": "reference", "flash": False} if number % 2 else {}
        log = trace_step(config, Step((12, 12), **PRETENDED, **kind), splice=False)
        flops = sum(work.flops * calls for work, calls in log.work("forward", "backward").items())
        found.append((log.peak_bytes(), log.phase_peaks(), log.components_at_peak(), flops))
    return found


@pytest.mark.parametrize("kind", ["llama", "neo"])
def test_a_plan_in_one_thread_and_training_in_another(kind: str, request: pytest.FixtureRequest) -> None:
    config = copy.deepcopy(request.getfixturevalue(f"short_{kind}_config"))
    for name in ("embed_dropout", "attention_dropout", "resid_dropout"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    alone = planned(config, lambda: None), trained_losses(config, lambda: None)
    barrier, results = threading.Barrier(2, timeout=60), dict[str, Any]()

    def run(name: str, work: Callable[..., Any]) -> None:
        try:
            results[name] = work(config, barrier.wait)
        except BaseException as error:
            barrier.abort()
            results[name] = error

    threads = [threading.Thread(target=run, args=args) for args in (("plan", planned), ("train", trained_losses))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results["plan"] == alone[0]
    assert results["train"] == alone[1]


def test_recomputation_in_backward_sees_the_gpu_too(short_llama_config: Any) -> None:
    """A layer that runs once more must keep what it kept the first time: the GPU's attention both times."""
    step = Step((12, 12), **PRETENDED, kind="reference")
    names = [
        {work.name for work in trace_step(short_llama_config, step).work(phase)} for phase in ("forward", "backward")
    ]
    assert not any("for_cpu" in name for found in names for name in found)


def test_building_a_model_leaves_torchs_default_type_alone(
    short_llama_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds for every thread, and a config may name another one than float32."""
    asked: list[torch.dtype] = []
    monkeypatch.setattr(torch, "set_default_dtype", asked.append)
    config = copy.deepcopy(short_llama_config)
    config.dtype = torch.bfloat16
    simulate.build_on_meta(config, dtype=torch.bfloat16)
    assert set(asked) <= {torch.float32}
