"""Optimizer steps and micro-batches by token budget, in random order.

A step is a set of documents whose fed tokens are about `tokens_per_step`; a micro-batch is the part of it that one
forward and backward pass sees. Because documents are never padded, batches need no sorting by length and stay random.
The order depends on the seed and the epoch alone, so that any step can be rebuilt when a run resumes.
"""

from __future__ import annotations

import heapq
import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def epoch_steps(fed_tokens: NDArray[np.int64], tokens_per_step: int, *, seed: int, epoch: int) -> list[Indices]:
    """The document indices of every optimizer step of one epoch.

    fed_tokens: [N] tokens that each document feeds (its length - 1; the last token predicts nothing).
    The epoch is cut into equal spans of the shuffled token stream, so no step is a small remainder.
    """
    num_documents = len(fed_tokens)
    order = np.random.default_rng([seed, epoch]).permutation(num_documents)
    ends = np.cumsum(fed_tokens[order])
    num_steps = steps_in_epoch(fed_tokens, tokens_per_step)
    middles = ends - fed_tokens[order] / 2
    step_of = np.minimum((middles * num_steps / ends[-1]).astype(np.int64), num_steps - 1)
    starts = np.searchsorted(step_of, np.arange(num_steps + 1))
    return [order[start:end] for start, end in pairwise(starts) if end > start]


def steps_in_epoch(fed_tokens: NDArray[np.int64], tokens_per_step: int) -> int:
    """Optimizer steps that one epoch is cut into; an epoch whose documents span several steps may have fewer."""
    return max(1, min(len(fed_tokens), round(int(fed_tokens.sum()) / tokens_per_step)))


def run_steps(
    fed_tokens: NDArray[np.int64], tokens_per_step: int, *, seed: int, epochs: float, max_steps: int | None = None
) -> list[Indices]:
    """The document indices of every optimizer step of a run; a fractional epoch is the start of a whole one."""
    steps: list[Indices] = []
    for epoch in range(math.ceil(epochs)):
        whole = epoch_steps(fed_tokens, tokens_per_step, seed=seed, epoch=epoch)
        share = min(1.0, epochs - epoch)
        steps += whole[: max(1, round(len(whole) * share))]
        if max_steps is not None and len(steps) >= max_steps:
            return steps[:max_steps]
    return steps


def micro_batches(indices: Indices, fed_tokens: NDArray[np.int64], max_tokens: int) -> list[Indices]:
    """Cut one step into micro-batches of at most `max_tokens` fed tokens; a longer document stands alone.

    Documents are sorted by length inside the step, so that neighbours in a micro-batch are alike; the step's loss is a
    sum, so the order changes nothing but its rounding.
    """
    ordered = indices[np.argsort(fed_tokens[indices], kind="stable")]
    batches: list[Indices] = []
    start, filled = 0, 0
    for position, index in enumerate(ordered):
        tokens = int(fed_tokens[index])
        if position > start and filled + tokens > max_tokens:
            batches.append(ordered[start:position])
            start, filled = position, 0
        filled += tokens
    batches.append(ordered[start:])
    return batches


def rank_share(indices: Indices, fed_tokens: NDArray[np.int64], rank: int, num_processes: int) -> Indices:
    """The documents of one step that process `rank` takes: longest first, each to the process with fewest tokens."""
    return rank_shares(indices, fed_tokens, num_processes)[rank]


def rank_shares(indices: Indices, fed_tokens: NDArray[np.int64], num_processes: int) -> list[Indices]:
    """What each process takes of one step; nothing where there are fewer documents than processes."""
    if num_processes == 1:
        return [indices]
    loads = [(0, rank) for rank in range(num_processes)]  # a heap
    shares: list[list[int]] = [[] for _ in range(num_processes)]
    ordered = indices[np.argsort(-fed_tokens[indices], kind="stable")]
    for index, tokens in zip(ordered.tolist(), fed_tokens[ordered].tolist(), strict=True):
        load, rank = loads[0]
        heapq.heapreplace(loads, (load + tokens, rank))
        shares[rank].append(index)
    return [np.array(share, dtype=np.int64) for share in shares]
