"""Time: the roofline, the parts of a run, and the refit to real steps."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch

from tunesmith.forecast import roofline
from tunesmith.forecast.host import HostTime, _pipelined
from tunesmith.forecast.roofline import CpuRates, GpuRates
from tunesmith.forecast.shapes import find_shape
from tunesmith.forecast.time import Amounts, Measured, StepTime, measure_steps, refit, time_of_run, time_of_step
from tunesmith.forecast.tracing.step import Step, trace_step
from tunesmith.forecast.tracing.trace import Work
from tunesmith.machine.gpus import find_gpu

A100 = find_gpu("a100-80gb")
FORECAST = StepTime(
    token_seconds=0.002, step_seconds=0.1, eval_token_seconds=0.0006, flops_per_token=1e9, origin="computed"
)


def product(size: int, dtype: torch.dtype = torch.bfloat16) -> Work:
    return Work("mm", dtype, 2 * size**3, 3 * size**2 * dtype.itemsize, (size, size, size, 1))


def test_large_products_run_at_the_rate_of_arithmetic() -> None:
    rates = GpuRates(A100)
    bf16, fp32 = (rates.seconds(Counter({product(8192, t): 1})) for t in (torch.bfloat16, torch.float32))
    assert bf16 == pytest.approx(2 * 8192**3 / (A100.matrix * rates.gemm_share), rel=0.1)
    assert fp32 == pytest.approx(2 * 8192**3 / (A100.fp32 * rates.fp32_share), rel=0.01)


def test_a_head_whose_rows_are_not_aligned_is_several_times_slower() -> None:
    aligned = Work("mm", torch.bfloat16, 2 * 4096 * 768 * 50304, 0, (4096, 768, 50304, 1))
    apart = aligned._replace(aligned=False)
    for gpu, least in ((find_gpu("h200"), 5.0), (A100, 1.9)):
        rates = GpuRates(gpu)
        assert rates.seconds(Counter({apart: 1})) / rates.seconds(Counter({aligned: 1})) > least


def test_element_wise_work_runs_at_the_rate_of_memory() -> None:
    work = Work("mul", torch.float32, 0, 10**9, None)
    rates = GpuRates(A100)
    assert rates.seconds(Counter({work: 1})) == pytest.approx(1e9 / (A100.bandwidth * rates.bandwidth_share), rel=0.01)


def test_many_small_kernels_take_their_gaps() -> None:
    work = Work("mul", torch.float32, 0, 1000, None)
    assert GpuRates(A100).seconds(Counter({work: 10_000})) == pytest.approx(10_000 * roofline.GAP_SECONDS, rel=0.01)


PROFILED = {
    ("EleutherAI/gpt-neo-125m", 32): 39.7,
    ("EleutherAI/gpt-neo-125m", 500): 76.8,
    ("HuggingFaceTB/SmolLM2-135M", 32): 124.7,
    ("HuggingFaceTB/SmolLM2-135M", 500): 141.5,
}
"""Milliseconds of one step on an H200 (torch 2.11), layers not fused, of so many documents of 33 tokens."""


def profiled(model: str, documents: int, **changes: Any) -> StepTime:
    step = Step((33,) * documents, precision="bf16", device="cuda", fused=False)
    log = trace_step(find_shape(model).config, step)
    return time_of_step(log, step, GpuRates(find_gpu("h200")), "", **changes)


@pytest.mark.parametrize(("model", "documents"), PROFILED)
def test_a_step_on_an_h200_is_within_ten_per_cent(model: str, documents: int) -> None:
    seconds = profiled(model, documents).of(33 * documents)
    assert 1000 * seconds == pytest.approx(PROFILED[model, documents], rel=0.1)


FUSED = {
    ("EleutherAI/gpt-neo-125m", "full"): (5.66, 41.0),
    ("HuggingFaceTB/SmolLM2-135M", "full"): (8.36, 86.2),
    ("EleutherAI/gpt-neo-125m", "lora"): (3.89, 59.5),
}
"""Milliseconds of one step of 1,056 tokens on an H200 (torch 2.11), layers fused: recorded, and launched by Python."""


@pytest.mark.parametrize(("model", "method"), FUSED)
def test_a_fused_step_on_an_h200_is_within_twelve_per_cent(model: str, method: Any) -> None:
    step = Step(
        (33,) * 32,
        precision="bf16",
        device="cuda",
        method=method,
        dtype="float32" if method == "full" else "bfloat16",
    )
    log, rates = trace_step(find_shape(model).config, step), GpuRates(find_gpu("h200"))
    found = [1000 * time_of_step(log, step, rates, "", recorded=recorded).of(1056) for recorded in (True, False)]
    assert found == pytest.approx(FUSED[model, method], rel=0.12)


def test_a_recorded_step_takes_the_gpus_time_and_little_more() -> None:
    eager, recorded = (profiled("EleutherAI/gpt-neo-125m", 32, recorded=value) for value in (False, True))
    device = recorded.step_seconds + 1056 * recorded.token_seconds
    assert recorded.of(1056) == device < eager.of(1056) / 3
    assert recorded.host.once_seconds > 0


def test_a_host_is_covered_by_a_gpu_that_is_behind() -> None:
    assert _pipelined([(1.0, 3.0), (1.0, 3.0)]) == 6.0
    assert _pipelined([(3.0, 1.0), (3.0, 1.0)]) == 6.0
    assert _pipelined([(3.0, 1.0), (1.0, 3.0)]) == 6.0  # the GPU waited for the first, and is behind in the second
    assert _pipelined([(1.0, 3.0), (3.0, 1.0)]) == 4.0


def test_a_cpu_is_measured_at_the_shapes_of_the_step() -> None:
    work = Counter({product(64, torch.float32): 5, product(32, torch.float32): 1})
    rates = CpuRates.measure(work)
    assert {key[0] for key in rates.gemm_seconds} == {(64, 64, 64, 1), (32, 32, 32, 1)}
    assert rates.seconds(work) > 5 * rates.gemm_seconds[(64, 64, 64, 1), torch.float32]


def test_a_spent_budget_leaves_the_rest_to_the_mean_rate() -> None:
    work = Counter({product(size, torch.float32): 1 for size in (96, 64, 32)})
    rates = CpuRates.measure(work, budget_seconds=0.0)
    assert len(rates.gemm_seconds) == 1
    assert rates.seconds(work) > 0


def test_parts_of_a_run_are_priced_apart() -> None:
    amounts = Amounts(
        num_steps=100, num_tokens=100_000, target_fraction=0.5, eval_tokens=5_000, num_evaluations=4,
        checkpoint_bytes=400_000_000, trained_bytes=100_000_000, save_interval=60.0, weights_bytes=10**9, device="cpu",
    )  # fmt: skip
    run = time_of_run(FORECAST, amounts)
    assert run.train_seconds == pytest.approx(100 * 0.1 + 100_000 * 0.002)
    assert run.eval_seconds == pytest.approx(4 * 5_000 * 0.0006)
    assert run.num_saves == 1 + 210 // 60
    assert run.save_seconds == pytest.approx(4.0)
    best = time_of_run(FORECAST, replace(amounts, keeps_best=True))
    assert best.save_seconds == pytest.approx(4.0 + 3 * 0.1), "at each evaluation but that of the base"
    assert run.tokens_per_second == pytest.approx(50_000 / 210)
    assert run.run_seconds == pytest.approx(run.train_seconds + run.eval_seconds + run.save_seconds)
    assert run.total_seconds == pytest.approx(run.run_seconds + run.load_seconds)


def test_a_product_that_takes_long_is_not_timed_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """As bfloat16 does on a processor that emulates it: a sixteenth of the rows tells as much."""
    rows: list[int] = []

    def multiply(left: torch.Tensor, right: torch.Tensor) -> None:
        rows.append(len(left))

    monkeypatch.setattr(roofline, "LONG_SECONDS", 0.0)
    monkeypatch.setattr(torch, "matmul", multiply)
    assert roofline._time_gemm((64, 8, 8, 1), torch.float32) > 0
    assert rows == [4]


def test_a_host_that_is_slower_than_the_gpu_sets_the_time() -> None:
    forecast = replace(FORECAST, host=HostTime(step_seconds=1.0, pass_seconds=2.0, pass_tokens=100))
    assert forecast.of(100) == pytest.approx(3.0)
    assert forecast.of(101) == pytest.approx(5.0)
    assert forecast.of(10_000) == pytest.approx(201.0)
    fitted = refit(forecast, [Measured(100, 6.0), Measured(100, 6.0)])
    assert fitted.of(100) == pytest.approx(6.0)


def test_refit_finds_what_a_step_and_what_a_token_cost() -> None:
    measured = [Measured(tokens, 0.5 + 0.004 * tokens) for tokens in (100, 1000, 120, 980)]
    fitted = refit(FORECAST, measured)
    assert fitted.step_seconds == pytest.approx(0.5)
    assert fitted.token_seconds == pytest.approx(0.004)
    assert fitted.eval_token_seconds == pytest.approx(2 * FORECAST.eval_token_seconds)
    assert "4 real steps" in fitted.origin


def test_steps_of_one_size_scale_the_forecast() -> None:
    fitted = refit(FORECAST, [Measured(500, 2.2), Measured(505, 2.2)])
    assert fitted.of(502.5) == pytest.approx(2.2)
    assert fitted.step_seconds / fitted.token_seconds == pytest.approx(FORECAST.step_seconds / FORECAST.token_seconds)


def test_a_slope_that_makes_no_sense_scales_the_forecast() -> None:
    fitted = refit(FORECAST, [Measured(100, 3.0), Measured(1000, 1.0)])
    assert fitted.token_seconds > 0
    assert fitted.step_seconds >= 0


def test_an_evaluation_that_was_timed_is_not_guessed_from_the_steps() -> None:
    steps = [Measured(tokens, 0.5 + 0.004 * tokens) for tokens in (100, 1000)]
    fitted = refit(FORECAST, [*steps, Measured(2000, 1.0, "evaluation")])
    assert [fitted.token_seconds, fitted.eval_token_seconds] == pytest.approx([0.004, 0.0005])


def test_steps_take_turns_after_a_warm_up() -> None:
    ran = list[int]()
    measured = measure_steps(ran.append, [30, 10, 20], skip=2, count=4)
    assert ran == [0, 1, 2, 0, 1, 2]
    assert [item.num_tokens for item in measured] == [20, 30, 10, 20]


def test_an_accumulated_step_counts_each_micro_batch_once(llama_config: Any) -> None:
    once, twice = (Step((64,) * 4, accumulates=value) for value in (False, True))
    flops = [
        time_of_step(trace_step(llama_config, step), step, GpuRates(A100), "").flops_per_token for step in (once, twice)
    ]
    assert flops[0] == pytest.approx(flops[1])


def test_arithmetic_of_a_token_is_about_six_times_the_parameters(llama_config: Any) -> None:
    step = Step((64,) * 4)
    log = trace_step(llama_config, step)
    flops = time_of_step(log, step, GpuRates(A100), "").flops_per_token
    assert 1.0 < flops / (6 * log.num_trained) < 1.6  # short documents' attention on top
