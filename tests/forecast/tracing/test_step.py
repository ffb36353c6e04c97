"""The forecast of a step against the step itself, run on a real model. CPU."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch

from tunesmith.forecast.memory import forecast_memory
from tunesmith.forecast.shapes import find_shape
from tunesmith.forecast.tracing import simulate
from tunesmith.forecast.tracing.step import Step, _twice, batches_of, run_step, trace_step, with_8bit_state, with_places
from tunesmith.forecast.tracing.trace import Log, Trace
from tunesmith.recipe import LoraSection
from tunesmith.step import DTYPES, prepare_model

DOCUMENTS = (60, 50, 50, 33, 20, 20, 7)
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "accumulated": {"accumulates": True},
    "checkpointed": {"gradient_checkpointing": True},
    "some targets": {"target_fraction": 0.5},
    "lora": {"method": "lora"},
    "lora with added rows": {"method": "lora", "num_added": 3},
    "autocast": {"precision": "bf16"},
    "adafactor": {"optimizer": "adafactor"},
    "muon": {"optimizer": "muon"},
    "muon, bfloat16 weights": {"optimizer": "muon", "precision": "bf16", "dtype": "bfloat16"},
    "adafactor, bfloat16 weights": {"optimizer": "adafactor", "precision": "bf16", "dtype": "bfloat16"},
    "lora, scored in larger batches": {"method": "lora", "precision": "bf16", "scored_batch": (60, 40) * 6},
    "reference": {"kind": "reference"},
}


def real_model(config: Any, step: Step) -> Any:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager" if step.kind == "reference" else None)
    model.to(DTYPES[step.dtype]).config.use_cache = False
    model.get_input_embeddings().padding_idx = None
    model.added_rows = range(config.vocab_size - step.num_added, config.vocab_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return prepare_model(model, step.settings)


def real_log(config: Any, step: Step) -> Log:
    """The step run for real, recorded by the same trace."""
    model = real_model(config, step)
    batches = batches_of(step)
    with Trace(logits_width=config.vocab_size) as trace:
        run_step(model, step, batches, trace)
    return _twice(trace.log)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("model", ["llama", "neo"])
def test_forecast_equals_the_real_step_to_the_byte(model: str, variant: str, request: pytest.FixtureRequest) -> None:
    config = request.getfixturevalue(f"short_{model}_config")
    step = Step(DOCUMENTS if variant != "reference" else (32, 32), **VARIANTS[variant])
    forecast, real = trace_step(config, step, splice=False), real_log(config, step)
    assert forecast.peak_bytes() == real.peak_bytes()
    assert forecast.phase_peaks() == real.phase_peaks()
    assert forecast.components_at_peak() == real.components_at_peak()


def test_an_evaluation_in_larger_batches_is_where_a_lean_step_needs_most(short_llama_config: Any) -> None:
    step = Step(DOCUMENTS, method="lora")
    whole = replace(step, scored_batch=DOCUMENTS * 12)
    logs = [trace_step(short_llama_config, each) for each in (step, whole)]
    assert logs[0].phase_peaks()["evaluation"] < logs[0].peak_bytes()
    assert logs[1].phase_peaks()["evaluation"] == logs[1].peak_bytes() > logs[0].peak_bytes()
    assert (step.num_scored, whole.num_scored) == (sum(DOCUMENTS), 12 * sum(DOCUMENTS))


def profiled_peak(model: Any, step: Step) -> int:
    """Bytes that the profiler saw allocated above what was there before, over two steps."""
    from torch.profiler import ProfilerActivity, profile

    batch = simulate.traced_batch(step.micro_batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        for _ in range(2):
            model(flat=batch, denominator=batch.num_targets).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            model.zero_grad()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


@pytest.mark.parametrize("checkpointing", [False, True])
def test_forecast_is_within_a_thousandth_of_the_profiler(checkpointing: bool, wide_config: Any) -> None:
    step = Step((100,) * 5, gradient_checkpointing=checkpointing)
    model = real_model(wide_config, step)
    held = [*model.parameters(), *model.buffers()]
    forecast = trace_step(wide_config, step).peak_bytes() - sum(
        tensor.numel() * tensor.element_size() for tensor in held
    )
    assert profiled_peak(model, step) == pytest.approx(forecast, rel=1e-3)


def test_checkpointing_trades_activations_for_arithmetic(short_llama_config: Any) -> None:
    plain, saved = (
        trace_step(short_llama_config, Step((64,) * 8, gradient_checkpointing=value)) for value in (False, True)
    )
    assert saved.phase_peaks()["forward"] < plain.phase_peaks()["forward"]
    flops = [sum(w.flops * n for w, n in log.work("forward", "backward").items()) for log in (plain, saved)]
    assert 1.2 < flops[1] / flops[0] < 1.4


def test_accumulating_keeps_the_gradients(short_llama_config: Any) -> None:
    once, twice = (trace_step(short_llama_config, Step((64,) * 8, accumulates=value)) for value in (False, True))
    gradients = 4 * once.num_trained
    assert twice.phase_peaks()["forward"] - once.phase_peaks()["forward"] == pytest.approx(gradients, rel=0.01)


def test_qlora_packs_the_linear_weights(short_llama_config: Any) -> None:
    common: dict[str, Any] = {"precision": "bf16", "dtype": "bfloat16", "device": "cuda"}
    lora, qlora = (trace_step(short_llama_config, Step((32,) * 4, method=m, **common)) for m in ("lora", "qlora"))
    linear = 3 * 32 * (32 + 16 + 16 + 32 + 3 * 64)
    saved = lora.components_at_peak()["weights"] - qlora.components_at_peak()["weights"]
    assert saved == pytest.approx(linear * (2 - simulate.NF4_BYTES), rel=0.01)


def test_layers_in_ram_leave_room_for_two(wide_config: Any) -> None:
    step = Step((64,) * 8, method="lora", gradient_checkpointing=True, precision="bf16")
    real = prepare_model(simulate.build_on_meta(wide_config, dtype=torch.float32), step.settings)
    layers = real.get_base_model().model.layers
    frozen = [sum(p.numel() * 4 for p in layer.parameters() if not p.requires_grad) for layer in layers]
    for splice in (False, True):
        log = trace_step(wide_config, step, splice=splice)
        streamed = with_places(log, len(layers))
        saved = sum(frozen) - 2 * frozen[0]
        assert log.components_at_peak()["weights"] - streamed.components_at_peak()["weights"] == saved
        assert log.peak_bytes() - streamed.peak_bytes() == saved
        assert log.num_trained == streamed.num_trained


def test_dora_also_trains_a_length_for_each_row(short_llama_config: Any) -> None:
    lora, dora = (trace_step(short_llama_config, Step((32,) * 4, method=m)) for m in ("lora", "dora"))
    assert dora.num_trained - lora.num_trained == 3 * (32 + 16 + 16 + 32 + 64 + 64 + 32)


def test_how_an_adapter_begins_changes_no_shape(short_llama_config: Any) -> None:
    zero, pissa = (
        trace_step(short_llama_config, Step((32,) * 4, method="lora", lora=LoraSection(init=init)))
        for init in ("zero", "pissa")
    )
    assert zero.num_trained == pissa.num_trained
    assert zero.peak_bytes() == pissa.peak_bytes()


def test_an_8bit_optimizer_takes_a_quarter_of_the_state(wide_config: Any) -> None:
    log = trace_step(wide_config, Step((32,) * 4))
    small = with_8bit_state(log)
    before, after = log.components_at_peak()["optimizer"], small.components_at_peak()["optimizer"]
    assert after / before == pytest.approx(0.25, abs=0.02)  # two scales for 256 values, norms in float32
    assert small.peak_bytes() - after == log.peak_bytes() - before


def test_an_8bit_optimizer_takes_half_of_the_state_of_bfloat16_weights(wide_config: Any) -> None:
    log = trace_step(wide_config, Step((32,) * 4, dtype="bfloat16"))
    small = with_8bit_state(log, "bfloat16")
    before, after = log.components_at_peak()["optimizer"], small.components_at_peak()["optimizer"]
    assert after / before == pytest.approx(0.5, abs=0.04)


def test_gpu_kernels_allocate_other_memory(short_llama_config: Any) -> None:
    """On a GPU documents are not padded, and the logits buffer is larger and lives for one pass."""
    cpu, gpu = (trace_step(short_llama_config, Step(DOCUMENTS, device=device)) for device in ("cpu", "cuda"))
    assert cpu.phase_peaks() != gpu.phase_peaks()
    names = {
        work.name
        for work in trace_step(short_llama_config, Step(DOCUMENTS, device="cuda", precision="bf16")).work("forward")
    }
    assert "_varlen_attn" in names


@pytest.mark.parametrize("model", ["llama", "neo"])
def test_weights_that_move_in_backward_hold_no_gradients(model: str, request: pytest.FixtureRequest) -> None:
    config = request.getfixturevalue(f"short_{model}_config")
    common: dict[str, Any] = {"precision": "bf16", "dtype": "bfloat16"}
    lean, plain = (Step(DOCUMENTS, **common, update_in_backward=value) for value in (True, False))
    log = trace_step(config, lean)
    assert log.components_at_peak()["gradients"] == 0
    assert log.num_trained == trace_step(config, plain).num_trained
    assert (lean.runs_each_pass, plain.runs_each_pass) == (2, 1)
    assert Step(DOCUMENTS, update_in_backward=True, clips=False).runs_each_pass == 1


LEANEST: dict[str, Any] = {
    "precision": "bf16", "dtype": "bfloat16", "device": "cuda", "gradient_checkpointing": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("model", "most", "most_in_backward"),
    [
        ("EleutherAI/gpt-neo-125m", 2.0, 1.4),
        pytest.param("EleutherAI/gpt-neo-1.3B", 11.0, 7.5, marks=pytest.mark.slow),
        pytest.param("EleutherAI/gpt-neo-2.7B", 22.0, 13.5, marks=pytest.mark.slow),
    ],
)
def test_the_leanest_whole_fine_tuning(model: str, most: float, most_in_backward: float) -> None:
    """Gigabytes reserved with 1,056 tokens a pass, clipped: bfloat16 weights, 8-bit moments, checkpointing."""
    for in_backward, limit in ((False, most), (True, most_in_backward)):
        step = Step((33,) * 32, **LEANEST, update_in_backward=in_backward)
        log = with_8bit_state(trace_step(find_shape(model).config, step), "bfloat16")
        assert forecast_memory(log, "cuda", base_bytes=0).reserved_bytes < limit * 1e9
