"""Speed, memory and MFU on one GPU, against the setups people would use instead.

    python benchmarks/gpu.py [--out results.json] [--rows FILE] [--toy]

Takes less than nine minutes on one GPU of the H200 class. --toy runs the same program on toy models, on a CPU too; its
figures mean nothing. Writes JSON as benchmarks/cpu.py does; fraction_of_limit is the share of the measured bfloat16
rate (the MFU against what this GPU really multiplies), mfu the share of `--peak-tflops`.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from cpu import HEADLINE, load_documents
from harness.documents import default_rows
from harness.interleave import TRAINED_SHARE, Rounds, Row, measure, results_of
from harness.limit import matmul_flops
from harness.shapes import SHAPES
from harness.table import print_limit, print_model
from harness.variants import Bench

PEERS = ["hf_random", "hf_sorted", "trl_default", "trl_best", "liger"]
OURS = ["tunesmith", "tunesmith_compile", "tunesmith_bf16", "tunesmith_lora"]
MODELS: dict[str, tuple[int, int, list[str]]] = {
    "gpt-neo-125m": (3, 1024, ["reference", *PEERS, *OURS]),
    "smollm2-135m": (3, 1024, ["hf_sorted", "trl_best", "liger", *OURS]),
    "gpt-neo-1.3b": (2, 512, ["hf_sorted", "trl_best", *OURS]),
    "gpt-neo-2.7b": (2, 256, ["tunesmith", "tunesmith_bf16", "tunesmith_lora"]),
}
"""Rounds, documents a round, and variants of each model."""
TOY_MODELS = {"toy-neo": (1, 32, ["reference", "hf_sorted", *OURS]), "toy-llama": (1, 32, ["hf_sorted", "tunesmith"])}
TOKENS_PER_PASS = 16384
EPOCH_ROWS = 8000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/gpu.json"), help="where the JSON goes")
    parser.add_argument("--rows", type=Path, default=default_rows(), help="CSV with a column description")
    parser.add_argument("--toy", action="store_true", help="toy models, to see that it runs; also without a GPU")
    parser.add_argument(
        "--peak-tflops", type=float, default=989.0, help="dense bfloat16 of the data sheet; H100/H200 989"
    )
    parser.add_argument("--models", nargs="+", choices=[*MODELS, *TOY_MODELS], help="only these")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not options.toy:
        parser.error("no CUDA device here. --toy runs on a CPU; benchmarks/cpu.py measures one.")
    started = time.monotonic()
    results = run(options, device)
    results["seconds"] = time.monotonic() - started
    options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(f"\n{results['seconds'] / 60:.1f} minutes; written to {options.out}")


def run(options: argparse.Namespace, device: str) -> dict[str, Any]:
    size, seconds = (64, 0.001) if options.toy else (8192, 0.5)
    gemm = {"dtype": torch.bfloat16, "size": size, "seconds": seconds}
    limit = {
        "bf16": matmul_flops(torch.bfloat16, device, size=size, seconds=seconds),
        "fp32": matmul_flops(torch.float32, device, size=size, seconds=seconds),
    }
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    print(f"{name}, torch {torch.__version__}")
    print_limit(limit)
    results: dict[str, Any] = {
        "machine": {"device": name, "torch": torch.__version__, "peak_tflops": options.peak_tflops},
        "rows": options.rows.name,
        "limit_flops": limit,
        "models": {},
    }
    documents = load_documents(options.rows)
    models = TOY_MODELS if options.toy else MODELS
    for name in options.models or models:
        rounds, per_round, variants = (MODELS | TOY_MODELS)[name]
        result = measure_model(name, variants, Rounds(documents, per_round, rounds), device, gemm, options.peak_tflops)
        results["models"][name] = result
        print_model(name, result)
    first = next(iter(results["models"].values()))
    return results | {key: first[key] for key in HEADLINE}


def measure_model(
    name: str, variants: list[str], rounds: Rounds, device: str, gemm: dict[str, Any], peak_tflops: float
) -> dict[str, Any]:
    """Every variant alone on the device, so that its peak memory is its own; the limit is measured beside each."""
    bench, rows = Bench(SHAPES[name], device, bfloat16=True, tokens_per_pass=TOKENS_PER_PASS), []
    for variant in variants:
        own = Bench(bench.shape, device, bfloat16=variant != "reference", tokens_per_pass=TOKENS_PER_PASS)
        try:
            rows += measure(own, [variant], rounds, gemm=gemm)
        except torch.OutOfMemoryError:
            rows += [Row(variant, "", skipped="out of memory")]
        del own
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
    result = results_of(bench, rows)
    for variant, row in result["variants"].items():
        rate, flops = row["tokens_per_second"], result["flops_per_token"] * TRAINED_SHARE.get(variant, 1.0)
        row["mfu"] = None if rate is None else rate * flops / (peak_tflops * 1e12)
        samples = row["samples_per_second"]
        row["epoch_seconds"] = None if samples is None else EPOCH_ROWS / samples
    return result


if __name__ == "__main__":
    main()
