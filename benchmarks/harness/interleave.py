"""Rounds in which every variant runs once, so that a change of the machine's mood hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from harness.limit import matmul_flops
from harness.shapes import flops_per_token
from harness.variants import Bench, Documents, Variant, make, missing, quiet

TRAINED_SHARE = {"tunesmith_lora": 4 / 6, "tunesmith_lora_autocast": 4 / 6}
"""Share of the arithmetic that remains when the weights are frozen: no gradient of theirs is computed."""


@dataclass
class Row:
    """Measurements of one variant; one entry a round."""

    name: str
    what: str
    seconds: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)
    limit_flops: list[float] = field(default_factory=list)
    peak_bytes: int | None = None
    skipped: str | None = None

    @property
    def tokens_per_second(self) -> float | None:
        """Median over the rounds."""
        if not self.seconds:
            return None
        return statistics.median(t / s for t, s in zip(self.tokens, self.seconds, strict=True))

    @property
    def samples_per_second(self) -> float | None:
        if not self.seconds:
            return None
        return statistics.median(n / s for n, s in zip(self.samples, self.seconds, strict=True))

    def share_of_limit(self, flops: float) -> float | None:
        if not self.seconds:
            return None
        flops *= TRAINED_SHARE.get(self.name, 1.0)
        rates = zip(self.tokens, self.seconds, self.limit_flops, strict=True)
        return statistics.median(t * flops / s / limit for t, s, limit in rates)


class Rounds:
    """Documents of each round: random ones, or a group of neighbours in length."""

    def __init__(self, documents: Documents, per_round: int, rounds: int) -> None:
        random = np.random.default_rng(7)
        order = random.permutation(len(documents))
        self._random = [documents[i] for i in order]
        self._sorted = sorted(documents, key=len)
        self.per_round, self.rounds = per_round, rounds
        self._cache: dict[tuple[str, int], Documents] = {}

    def documents(self, order: str, number: int) -> Documents:
        """Round 0 is the warm-up. The same list object for the same arguments."""
        if (order, number) not in self._cache:
            self._cache[order, number] = self._choose(order, number)
        return self._cache[order, number]

    def _choose(self, order: str, number: int) -> Documents:
        size = min(self.per_round, len(self._random))
        if order == "one":
            return self._random[number : number + 1]
        if order == "sorted":
            middle = (max(number, 1) - 0.5) / self.rounds * len(self._sorted)
            begin = int(np.clip(middle - size / 2, 0, len(self._sorted) - size))
            return self._sorted[begin : begin + size]
        begin = number * size % max(1, len(self._random) - size + 1)
        return self._random[begin : begin + size]


def measure(bench: Bench, names: list[str], rounds: Rounds, *, gemm: dict[str, Any]) -> list[Row]:
    """Speed of the variants, interleaved; on CUDA also their peak memory."""
    rows, running = [], []
    with quiet():
        for name in names:
            reason = missing(name, bench)
            if reason is not None:
                rows.append(Row(name, "", skipped=reason))
                continue
            variant = make(name, bench)
            row = Row(name, variant.what)
            rows.append(row)
            running.append((variant, row))
        for number in range(rounds.rounds + 1):
            for variant, row in running:
                if variant.name == "reference" and number > 1:
                    continue
                if variant.name == "reference" and number == 0 and bench.device == "cpu":
                    continue  # half a minute; it has no caches to warm
                _run(bench, variant, row, rounds.documents(variant.order, number), gemm, warm_up=number == 0)
    return rows


def _run(
    bench: Bench, variant: Variant, row: Row, documents: Documents, gemm: dict[str, Any], *, warm_up: bool
) -> None:
    prepare = getattr(variant.train, "prepare", None)
    if prepare is not None:
        prepare(documents)
    if variant.bfloat16:
        gemm = gemm | {"dtype": torch.bfloat16}
    limit = 0.0 if warm_up else matmul_flops(device=bench.device, **gemm)
    if bench.device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    tokens = variant.train(documents)
    if bench.device == "cuda":
        torch.cuda.synchronize()
        row.peak_bytes = max(row.peak_bytes or 0, torch.cuda.max_memory_allocated())
    if not warm_up:
        row.seconds.append(time.perf_counter() - started)
        row.tokens.append(tokens)
        row.samples.append(len(documents))
        row.limit_flops.append(limit)


def results_of(bench: Bench, rows: list[Row]) -> dict[str, Any]:
    """What is written for one model: every variant's figures, and the ratios.

    A ratio takes the faster type of arithmetic on either side, as `tunesmith train` does, unless its name says fp32.
    """
    flops = flops_per_token(bench.shape)
    variants = {
        row.name: {
            "what": row.what,
            "tokens_per_second": row.tokens_per_second,
            "samples_per_second": row.samples_per_second,
            "share_of_limit": row.share_of_limit(flops),
            "peak_bytes": row.peak_bytes,
            "skipped": row.skipped,
        }
        for row in rows
    }

    def of(name: str, key: str) -> float | None:
        value = variants.get(name, {}).get(key)
        return float(value) if value is not None else None

    def best(key: str, *names: str) -> float | None:
        return max((value for name in names if (value := of(name, key)) is not None), default=None)

    def ratio(key: str, mine: Sequence[str], others: Sequence[str]) -> float | None:
        a, b = best(key, *mine), best(key, *others)
        return a / b if a is not None and b else None

    speed, fp32, own = "tokens_per_second", ["tunesmith"], ["tunesmith", "tunesmith_autocast"]
    return {
        "flops_per_token": flops,
        "variants": variants,
        "fraction_of_limit": of("tunesmith", "share_of_limit"),
        "fraction_of_limit_in_bf16": of("tunesmith_autocast", "share_of_limit"),
        "vs_reference": ratio("samples_per_second", own, ["reference"]),
        "vs_hf_random": ratio(speed, own, ["hf_random"]),
        "vs_hf_sorted": ratio(speed, own, ["hf_sorted", "hf_sorted_autocast"]),
        "vs_hf_sorted_in_fp32": ratio(speed, fp32, ["hf_sorted"]),
        "vs_trl_default": ratio(speed, own, ["trl_default"]),
        "vs_trl_best": ratio(speed, own, ["trl_best", "trl_default"]),
        "vs_liger": ratio(speed, own, ["liger"]),
        "peak_memory_vs_hf_sorted": ratio("peak_bytes", fp32, ["hf_sorted"]),
        "lora_vs_full": ratio(speed, ["tunesmith_lora"], fp32),
        "lora_vs_full_in_bf16": ratio(speed, ["tunesmith_lora_autocast"], ["tunesmith_autocast"]),
    }
