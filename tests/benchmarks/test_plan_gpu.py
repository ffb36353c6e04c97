"""The check of the memory forecast runs on a CPU with toys; what it makes of its measurements is right."""

import json
import subprocess
import sys

import pytest


def test_the_forecast_of_a_toy_equals_what_its_real_steps_allocate(benchmarks):
    from plan_gpu import WAYS, Case, forecast, measure, quiet

    case = Case("toy-neo", *WAYS[2])
    assert case.accumulates
    with quiet():
        taken, planned = measure(case, "cpu", None), forecast(case, "cpu")
    assert not taken["out_of_memory"]
    assert planned == pytest.approx(taken["bytes"], rel=1e-3)


def test_configurations_cover_models_methods_precisions_and_lengths(benchmarks):
    from plan_gpu import MODELS, WAYS, Case

    cases = [Case(model, *way) for model in MODELS for way in WAYS]
    assert len(cases) >= 24
    for name, values in (
        ("method", {"full", "lora"}),
        ("precision", {"fp32", "bf16"}),
        ("checkpointing", {True, False}),
    ):
        assert {getattr(case, name) for case in cases} == values
    assert len({case.length for case in cases}) >= 3
    assert all(sum(case.documents) == 4096 for case in cases)


def test_summary_counts_errors_of_both_signs_and_broken_promises(benchmarks):
    from plan_gpu import summary

    rows = [{"error": error, "fits_but_ran_out": False} for error in (0.01, -0.02, 0.03, -0.10)]
    rows.append({"error": None, "fits_but_ran_out": True})
    found = summary(rows)
    assert found["median_error"] == pytest.approx(0.025)
    assert found["worst_error"] == 0.10
    assert 0.08 < found["p95_error"] <= 0.10
    assert (found["configurations"], found["measured"], found["fits_but_ran_out"]) == (5, 4, 1)


def test_without_a_gpu_it_says_what_it_needs(benchmarks):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    finished = subprocess.run(
        [sys.executable, str(benchmarks / "plan_gpu.py")], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 2
    assert "--toy" in finished.stderr


@pytest.mark.slow
def test_it_runs_end_to_end_with_toys(benchmarks, tmp_path):
    out = tmp_path / "plan.json"
    command = [sys.executable, str(benchmarks / "plan_gpu.py"), "--toy", "--models", "toy-llama", "--out", str(out)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-3000:]
    results = json.loads(out.read_text())
    assert results["measured"] == len(results["rows"]) == 6
    assert results["worst_error"] < 1e-3
    assert "lora bf16 checkpointing accumulating" in finished.stdout
