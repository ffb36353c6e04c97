"""The benchmarks run end to end on toys; what they compute from their measurements is right."""

import json
import subprocess
import sys

import numpy as np
import pytest

HEADLINE = {
    "fraction_of_limit",
    "vs_reference",
    "vs_hf_sorted",
    "vs_trl_best",
    "peak_memory_vs_hf_sorted",
    "time_to_loss_vs_reference",
    "time_to_loss_vs_hf",
}


def documents(lengths):
    return [np.arange(length) for length in lengths]


def test_variants_train_and_are_compared(benchmarks):
    import torch
    from harness.interleave import Rounds, measure, results_of
    from harness.shapes import SHAPES
    from harness.variants import Bench

    torch.manual_seed(0)
    bench = Bench(SHAPES["toy-llama"])
    rounds = Rounds([np.random.default_rng(i).integers(0, 99, 5 + i % 9) for i in range(12)], 4, 2)
    gemm = {"dtype": torch.float32, "size": 16, "seconds": 0.0001}
    names = ["reference", "hf_random", "hf_sorted", "tunesmith", "tunesmith_lora", "liger"]
    result = results_of(bench, measure(bench, names, rounds, gemm=gemm))
    rows = result["variants"]
    assert list(rows) == names
    assert rows["liger"]["skipped"]
    assert all(rows[name]["tokens_per_second"] > 0 for name in names[:-1])
    assert result["vs_hf_sorted"] == rows["tunesmith"]["tokens_per_second"] / rows["hf_sorted"]["tokens_per_second"]
    assert result["fraction_of_limit"] > 0
    assert result["vs_trl_best"] is None


def test_flops_count_each_weight_once_and_the_head(benchmarks):
    from harness.shapes import SHAPES, flops_per_token

    assert flops_per_token(SHAPES["gpt-neo-125m"]) == pytest.approx(0.742e9, rel=2e-3)
    assert flops_per_token(SHAPES["smollm2-135m"]) == pytest.approx(0.811e9, rel=2e-3)


def test_rounds_are_random_or_neighbours_in_length(benchmarks):
    from harness.interleave import Rounds

    rounds = Rounds(documents(range(1, 41)), 8, 3)
    assert rounds.documents("random", 1) is rounds.documents("random", 1)
    assert len(rounds.documents("one", 2)) == 1
    for number in (1, 2, 3):
        lengths = [len(ids) for ids in rounds.documents("sorted", number)]
        assert lengths == list(range(lengths[0], lengths[0] + 8))
    middles = [len(rounds.documents("sorted", number)[4]) for number in (1, 2, 3)]
    assert middles == sorted(middles)
    assert middles[1] == pytest.approx(20, abs=2)


def test_padded_batch_supervises_no_padding(benchmarks):
    from harness.variants import padded_batch, real_tokens

    batch = padded_batch([np.array([9, 1, 9]), np.array([9, 1, 2, 3, 9])], "cpu", 6)
    assert batch["input_ids"].shape == (2, 6)
    assert batch["labels"].tolist() == [[9, 1, 9, -100, -100, -100], [9, 1, 2, 3, 9, -100]]
    assert batch["attention_mask"].sum(1).tolist() == [3, 5]
    assert real_tokens([np.arange(3), np.arange(5)]) == 6


def test_passes_keep_their_budget_and_every_document(benchmarks):
    from harness.variants import passes, real_tokens

    parts = list(passes(documents([5, 5, 5, 30, 5]), 10))
    assert [len(part) for part in parts] == [2, 1, 1, 1]
    assert sum(real_tokens(part) for part in parts) == 4 * 4 + 29


def test_time_to_a_loss_is_between_evaluations(benchmarks):
    from harness.time_to_loss import curve_of, seconds_to

    curve = [(0.0, 5.0), (10.0, 4.0), (20.0, 3.5)]
    assert seconds_to(curve, 4.5) == 5.0
    assert seconds_to(curve, 3.75) == 15.0
    assert seconds_to(curve, 3.0) is None
    lines = [
        {"step": 0, "eval_loss": 5.0, "time": 30.0},
        {"step": 1, "loss": 4.9, "time": 34.0},
        {"step": 1, "eval_loss": 4.0, "time": 60.0},
        {"step": 2, "loss": 4.2, "time": 65.0},
        {"step": 2, "eval_loss": 3.5, "time": 90.0},
    ]
    assert curve_of(lines) == [(0.0, 5.0), (4.0, 4.0), (9.0, 3.5)]


def run(*arguments):
    finished = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout


@pytest.mark.slow
def test_the_cpu_benchmark_runs_end_to_end(benchmarks, tmp_path, shows_csv):
    out = tmp_path / "cpu.json"
    printed = run(benchmarks / "cpu.py", "--quick", "--threads", 1, "--rows", shows_csv, "--out", out)
    results = json.loads(out.read_text())
    assert results.keys() >= HEADLINE | {"machine", "limit_flops", "models", "time_to_loss", "seconds"}
    assert results["fraction_of_limit"] > 0
    assert results["peak_memory_vs_hf_sorted"] < 1
    assert "toy-neo" in printed
    assert "time to a held-out loss" in printed


def test_the_gpu_benchmark_says_what_it_needs(benchmarks):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    finished = subprocess.run([sys.executable, str(benchmarks / "gpu.py")], capture_output=True, text=True, check=False)
    assert finished.returncode == 2
    assert "--toy" in finished.stderr
