"""Speed, memory and time to a loss on this machine's CPU, against the setups people would use instead.

    python benchmarks/cpu.py [--out results.json] [--rows FILE] [--quick]

Takes about 20 minutes on two quiet cores with AVX-512, twice that with AVX2, where there are fewer rounds and rows.
--quick runs the same program on toy models in seconds; its figures mean nothing. Writes JSON: machine, limit, a result
for each model, time_to_loss, and the headline ratios at the top level.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from harness.documents import default_rows, read_texts, save_gpt2_tokenizer, tokenize

from tunesmith.machine.heap import use_huge_pages

VARIANTS = [
    *("reference", "hf_random", "hf_sorted", "hf_sorted_autocast", "trl_default", "trl_best"),
    *("tunesmith", "tunesmith_autocast", "tunesmith_lora", "tunesmith_lora_autocast"),
]
MODELS = {"gpt-neo-125m": VARIANTS, "smollm2-135m": VARIANTS}
TOY_MODELS = {"toy-neo": VARIANTS, "toy-llama": ["reference", "hf_sorted", "tunesmith"]}
SLOW_FLOPS = 1e11
"""A machine with less has two rounds instead of three, and half the rows for the time to a loss."""
ROWS_TO_LOSS, SHARE_HELD_OUT = 608, 96 / 608
MEMORY_VARIANTS = ["hf_sorted", "tunesmith", "tunesmith_autocast", "tunesmith_lora"]
DOCUMENTS_PER_ROUND = 32
HEADLINE = ["fraction_of_limit", "vs_reference", "vs_hf_sorted", "vs_trl_best", "peak_memory_vs_hf_sorted"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/cpu.json"), help="where the JSON goes")
    parser.add_argument("--rows", type=Path, default=default_rows(), help="CSV with a column description")
    parser.add_argument("--quick", action="store_true", help="toy models, to see that it runs")
    parser.add_argument("--threads", type=int, default=None, help="threads of torch; default all cores")
    parser.add_argument("--peak-of", nargs=2, metavar=("MODEL", "VARIANT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    if options.peak_of:
        print(peak_bytes(*options.peak_of, options.rows))
        return
    started = time.monotonic()
    results = run(options)
    results["seconds"] = time.monotonic() - started
    options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(f"\n{results['seconds'] / 60:.1f} minutes; written to {options.out}")


def run(options: argparse.Namespace) -> dict[str, Any]:
    import torch
    from harness.limit import matmul_flops
    from harness.table import print_limit, print_model, print_time_to_loss

    use_huge_pages()  # for all alike, although only tunesmith's users have it
    size, seconds = (64, 0.001) if options.quick else (2048, 1.0)
    types = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    limit = {name: matmul_flops(dtype, size=size, seconds=seconds) for name, dtype in types.items()}
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    print_limit(limit)
    results: dict[str, Any] = {
        "machine": {"threads": torch.get_num_threads(), "torch": torch.__version__, "load": os.getloadavg()[0]},
        "rows": options.rows.name,
        "limit_flops": limit,
        "models": {},
    }
    gemm = {"dtype": torch.float32, "size": size, "seconds": seconds}
    slow = limit["fp32"] < SLOW_FLOPS
    rounds = 1 if options.quick else 2 if slow else 3
    for name, variants in (TOY_MODELS if options.quick else MODELS).items():
        result = measure_model(name, variants, rounds, options, gemm)
        results["models"][name] = result
        print_model(name, result)
    num_rows = ROWS_TO_LOSS // 2 if slow else ROWS_TO_LOSS
    results["time_to_loss"] = measure_time_to_loss(results["models"], num_rows, options)
    print_time_to_loss(results["time_to_loss"])
    first = next(iter(results["models"].values()))
    results |= {key: first[key] for key in HEADLINE}
    for key in ("time_to_loss_vs_reference", "time_to_loss_vs_hf"):
        results[key] = results["time_to_loss"][key]
    return results


def load_documents(rows: Path) -> list[Any]:
    with tempfile.TemporaryDirectory() as folder:
        return tokenize(read_texts(rows)[:2048], save_gpt2_tokenizer(Path(folder)))


def measure_model(
    name: str, variants: list[str], rounds: int, options: argparse.Namespace, gemm: dict[str, Any]
) -> dict[str, Any]:
    """Speed in this process, interleaved; peak memory of each variant in a process of its own."""
    import gc

    from harness.interleave import Rounds, measure, results_of
    from harness.shapes import SHAPES
    from harness.variants import Bench

    bench = Bench(SHAPES[name])
    rows = measure(bench, variants, Rounds(load_documents(options.rows), DOCUMENTS_PER_ROUND, rounds), gemm=gemm)
    for row in rows:
        wanted = row.name in ("hf_sorted", "tunesmith") if options.quick else row.name in MEMORY_VARIANTS
        if wanted and row.skipped is None:
            row.peak_bytes = peak_in_process(name, row.name, options)
    result = results_of(bench, rows)
    del bench
    gc.collect()
    return result


def peak_in_process(name: str, variant: str, options: argparse.Namespace) -> int:
    command = [sys.executable, __file__, "--peak-of", name, variant, "--rows", str(options.rows)]
    if options.threads:
        command += ["--threads", str(options.threads)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def peak_bytes(name: str, variant: str, rows: Path) -> int:
    """The most memory this process held while it ran two rounds of one variant (resident, file pages included)."""
    from harness.interleave import Rounds
    from harness.shapes import SHAPES
    from harness.variants import MEMORY_ROUNDS, Bench, make, quiet

    if variant.startswith("tunesmith"):
        use_huge_pages()
    with quiet():
        runner = make(variant, Bench(SHAPES[name]))
        rounds = Rounds(load_documents(rows), DOCUMENTS_PER_ROUND, MEMORY_ROUNDS)
        for number in range(1, MEMORY_ROUNDS + 1):
            runner.train(rounds.documents(runner.order, number))
    return highest_resident_bytes()


def highest_resident_bytes() -> int:
    """ru_maxrss would start at the parent's value, which a child inherits through fork and exec."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    sys.exit("benchmarks/cpu.py needs /proc/self/status (Linux)")


def measure_time_to_loss(models: dict[str, Any], num_rows: int, options: argparse.Namespace) -> dict[str, Any]:
    """SmolLM2-135M's real weights; in --quick a random toy."""
    from harness.shapes import SHAPES, build
    from harness.time_to_loss import Task, compare_runs

    name = "toy-llama" if options.quick else "smollm2-135m"
    reference = models[name]["variants"]["reference"]["samples_per_second"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        if options.quick:
            build(SHAPES[name]).save_pretrained(path / "toy")
            save_gpt2_tokenizer(path / "toy")
            task = Task(str(path / "toy"), options.rows, 48, 0.25, path, learning_rate=1e-2)
        else:
            task = Task("smollm2-135m", options.rows, num_rows, SHARE_HELD_OUT, path)
        return compare_runs(task, 1 / reference)


if __name__ == "__main__":
    main()
