"""What benchmarks/gpu.py prints: a line for each row as it comes, and the tables and ratios at the end."""

from __future__ import annotations

from typing import Any

from harness.interleave import TRAINED_SHARE
from harness.processes import Row

_LORA_SHARE = TRAINED_SHARE["tunesmith_lora"]
_NAMED = {"train", "generate", "compare", "kill -9 and resume"}


def print_row(row: Row) -> None:
    """One line, as soon as it is known."""
    what = f"{row['at']:>6.1f} s  {row['task']:<30} {row.get('variant', ''):<18} {row.get('setting', ''):<24}"
    if row.get("failed"):
        print(f"{what} failed: {row['failed']}", flush=True)
        return
    shown = {
        "samples_per_second": "{:,.1f} samples/s",
        "step_ms": "{:.1f} ms a step",
        "busy_share": "busy {:.0%}",
        "kernels": "{:,.0f} kernels",
        "seconds": "{:.1f} s",
        "first_step_seconds": "step 1 after {:.1f} s",
        "equal": "equal: {}",
        "error": "forecast {:+.1%}",
        "device": "{}",
    }
    for note in row.get("said") or ():
        print(f"{'':>10}{note}")
    print(what, *(form.format(row[key]) for key, form in shown.items() if row.get(key) is not None), flush=True)


def share_of_limit(row: Row, flops_per_token: float) -> float:
    """Of the matrix rate measured beside it; with frozen weights a third of the arithmetic is not done."""
    flops = flops_per_token * (_LORA_SHARE if row["variant"].endswith("lora") else 1.0)
    return float(row["tokens_per_second"] * flops / row["limit_flops"])


def ratios(rows: list[Row], flops: dict[str, float]) -> dict[str, dict[str, float]]:
    """By model: the best of each setup against ours, by samples a second; LoRA against full; shares of the limit."""
    found: dict[str, dict[str, float]] = {}
    for model in flops:
        best = _best(rows, model)
        own = best.get("tunesmith full")
        if own is None:
            continue
        peers = [best[name] for name in ("hf", "liger", "trl packing") if name in best]
        values = {f"vs_{name.replace(' ', '_')}": own / best[name] for name in best if not name.startswith("tunesmith")}
        values |= {"vs_best_peer": own / max(peers)} if peers else {}
        values |= {"lora_vs_full": best["tunesmith lora"] / own} if "tunesmith lora" in best else {}
        found[model] = values
    return found


def _best(rows: list[Row], model: str) -> dict[str, float]:
    """Samples a second of each variant's fastest setting."""
    best: dict[str, float] = {}
    for row in rows:
        if row["task"].startswith(f"{model}/") and row.get("samples_per_second"):
            best[row["variant"]] = max(best.get(row["variant"], 0.0), row["samples_per_second"])
    return best


def print_tables(results: dict[str, Any]) -> None:
    rows: list[Row] = results["rows"]
    for model, flops in results["flops_per_token"].items():
        _print_model(model, flops, [row for row in rows if row["task"].startswith(f"{model}/")])
        print("  ".join(f"{key} {value:.2f}" for key, value in results["ratios"].get(model, {}).items()))
    _print_large([row for row in rows if row["task"].endswith("b/lora") and row.get("loss")])
    for row in rows:
        if row.get("variant") in _NAMED:
            print_row(row)
    if results["plan"]:
        print("memory forecast: " + "  ".join(f"{key} {value:.4g}" for key, value in results["plan"].items() if value))
    failed = [row for row in rows if row.get("failed")]
    for row in failed:
        print(f"failed: {row['task']} {row.get('setting', '')}: {row['failed']}")
    if results["left_out"]:
        print(f"left out, because the budget is {results['options']['budget']} s: {', '.join(results['left_out'])}")


def _print_model(model: str, flops: float, rows: list[Row]) -> None:
    print(f"\n{model}   {flops / 1e9:.3f} GFLOP a token")
    columns = f"{'tokens/s':>11}{'samples/s':>11}{'of limit':>10}{'peak GiB':>10}{'reserved':>10}"
    print(f"{'variant':<18}{'setting':<24}{columns}")
    for row in rows:
        name = f"{row.get('variant', ''):<18}{row.get('setting', ''):<24}"
        if row.get("failed"):
            print(f"{name} failed: {row['failed']}")
        elif "busy_share" in row:
            print(
                f"{name} {row['kernels']:,.0f} kernels a step, {row['busy_ms']:.1f} of {row['step_ms']:.1f} ms busy: "
                f"{row['busy_share']:.0%}"
            )
        elif "tokens_per_second" in row:
            share = share_of_limit(row, flops)
            print(
                f"{name}{row['tokens_per_second']:>11,.0f}{row['samples_per_second']:>11,.1f}{share:>10.1%}"
                f"{_gib(row['peak_bytes']):>10}{_gib(row.get('reserved_bytes')):>10}"
            )


def _print_large(rows: list[Row]) -> None:
    for row in rows:
        print(
            f"{row['task']:<20} {row['setting']}: {row['step_ms']:.0f} ms a step, loss {row['loss']:.3f}, "
            f"peak {_gib(row['peak_bytes'])} GiB"
        )


def _gib(value: int | None) -> str:
    return "-" if value is None else f"{value / 2**30:.2f}"
