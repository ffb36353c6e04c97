"""Tables of a benchmark, plain enough for a log and for docs."""

from __future__ import annotations

from typing import Any


def print_model(name: str, result: dict[str, Any]) -> None:
    print(f"\n{name}   {result['flops_per_token'] / 1e9:.3f} GFLOP a token")
    print(f"{'variant':<24}{'tokens/s':>11}{'samples/s':>11}{'of limit':>10}{'peak GiB':>10}   setup")
    for variant, row in result["variants"].items():
        if row["skipped"]:
            print(f"{variant:<24}{'-':>11}{'-':>11}{'-':>10}{'-':>10}   skipped: {row['skipped']}")
            continue
        peak = "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**30:.2f}"
        print(
            f"{variant:<24}{row['tokens_per_second']:>11,.1f}{row['samples_per_second']:>11,.2f}"
            f"{row['share_of_limit']:>10.1%}{peak:>10}   {row['what']}"
        )
    ratios = {key: value for key, value in result.items() if key.startswith(("fraction", "vs_", "peak_m", "lora"))}
    print("  ".join(f"{key} {value:.2f}" for key, value in ratios.items() if value is not None))


def print_limit(limit: dict[str, float]) -> None:
    print("matrix products: " + ", ".join(f"{name} {rate / 1e9:,.0f} GFLOP/s" for name, rate in limit.items()))


def print_time_to_loss(result: dict[str, Any]) -> None:
    print("\ntime to a held-out loss (training seconds, evaluation not counted)")
    for name, row in result["runs"].items():
        print(f"{name:<28}{row['seconds']:>10,.1f} s   loss {row['loss']:.4f}   {row['what']}")
    for key in ("time_to_loss_vs_reference", "time_to_loss_vs_hf"):
        value = result[key]
        print(f"{key} {'not reached' if value is None else f'{value:.2f}'}")
