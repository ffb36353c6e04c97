"""How much there is to learn from: lengths of the documents, and what an optimizer step and its micro-batches hold."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.tokens.steps import micro_batches, rank_share, rank_shares, run_steps
from tunesmith.errors import PlanError
from tunesmith.fast.batches.layout import buckets_of
from tunesmith.recipe import Recipe

if TYPE_CHECKING:
    from tunesmith.data import Data, TokenizedDocuments

ASSUMED_DOCUMENTS = 10_000
ASSUMED_SHORTEST = 16
STEPS_LOOKED_AT = 2_000
"""The largest step is looked for among this many."""
STEPS_CUT = 40
"""The largest micro-batch is looked for in this many of the largest steps."""


@dataclass(frozen=True, eq=False)
class Split:
    """One split in numbers. fed: int64 [N] tokens that each document feeds, its length minus one."""

    fed: NDArray[np.int64]
    num_targets: int

    @property
    def num_tokens(self) -> int:
        return int(self.fed.sum())

    @property
    def longest(self) -> int:
        """Tokens that the longest document feeds."""
        return int(self.fed.max()) if len(self.fed) else 0

    def longest_batch(self, max_tokens: int) -> tuple[int, ...]:
        """Tokens that the longest documents feed, as many as an evaluation scores at once."""
        ordered = np.sort(self.fed)[::-1]
        number = int(np.searchsorted(np.cumsum(ordered), max_tokens, side="right"))
        return tuple(map(int, ordered[: max(1, number)]))

    def cut(self, longest: int) -> Split:
        """Longer documents in equal pieces."""
        pieces = -(-self.fed // longest)
        return Split(np.repeat(-(-self.fed // np.maximum(pieces, 1)), pieces), self.num_targets)


@dataclass(frozen=True, eq=False)
class Workload:
    """Training and held-out documents of a run, and how they are known."""

    train: Split
    eval: Split
    origin: str
    """Where the lengths come from, as the report says it."""
    assumed: bool = False

    @classmethod
    def from_data(cls, data: Data) -> Workload:
        """The prepared data. Raises PlanError when there is nothing to train on."""
        if not len(data.train):
            raise PlanError(
                "plan: the training split has 0 documents. Expected at least one; check data and fractions."
            )
        train, held_out = _split(data.train), _split(data.eval)
        return cls(train, held_out, f"{len(train.fed):,} documents, {train.num_tokens:,} tokens")

    @classmethod
    def assume(cls, recipe: Recipe, why: str, max_length: int) -> Workload:
        """A stated stand-in for data that is not at hand: lengths spread evenly on a log scale up to max_length."""
        rows = min(recipe.data.max_rows or ASSUMED_DOCUMENTS, ASSUMED_DOCUMENTS)
        longest = max_length - 1
        lengths = np.geomspace(min(ASSUMED_SHORTEST, longest), longest, rows).round().astype(np.int64)
        held_out = round(rows * recipe.data.eval_fraction)
        order = np.random.default_rng(recipe.data.seed).permutation(rows)
        parts = [np.sort(lengths[order[held_out:]]), np.sort(lengths[order[:held_out]])]
        if len(parts[0]) and longest not in parts[0]:
            parts[0][-1] = longest
        train, eval_split = (Split(part, int(part.sum())) for part in parts)
        spread = f"{lengths[0]} to {longest + 1:,} tokens, {lengths.mean():.0f} on average"
        origin = f"{why}: assumed {rows:,} documents of {spread}"
        return cls(train, eval_split, origin, assumed=True)

    def cut(self, longest: int) -> Workload:
        """The same tokens in documents that feed at most `longest`."""
        return replace(self, train=self.train.cut(longest), eval=self.eval.cut(longest))

    def steps(self, recipe: Recipe, tokens_per_step: int) -> Steps:
        return Steps(self, recipe, tokens_per_step)


@dataclass(frozen=True, eq=False)
class Steps:
    """The optimizer steps of a run."""

    workload: Workload
    recipe: Recipe
    tokens_per_step: int

    @cached_property
    def all(self) -> list[NDArray[np.int64]]:
        """Document numbers of every step, as training will see them, before train.max_steps cuts them."""
        asked = self.recipe.train
        return run_steps(self.workload.train.fed, self.tokens_per_step, seed=asked.seed, epochs=asked.epochs)

    @property
    def num_tokens(self) -> int:
        """Tokens fed in all steps that are run."""
        asked = self.recipe.train.max_steps
        fed = self.workload.train.fed
        return sum(int(fed[step].sum()) for step in self.all[:asked])

    @property
    def largest(self) -> int:
        """Tokens of the largest step."""
        fed = self.workload.train.fed
        return max(int(fed[step].sum()) for step in self.all[:STEPS_LOOKED_AT])

    def largest_share(self, num_processes: int) -> float:
        """Of a step's tokens, those of the process that has most: the mean over steps from all of the run."""
        if num_processes == 1:
            return 1.0
        fed = self.workload.train.fed
        looked_at = self.all[:: max(1, len(self.all) // STEPS_CUT)]
        fullest = [max(int(fed[share].sum()) for share in rank_shares(step, fed, num_processes)) for step in looked_at]
        return sum(tokens / int(fed[step].sum()) for tokens, step in zip(fullest, looked_at, strict=True)) / len(
            looked_at
        )

    @property
    def documents(self) -> float:
        """Of a step, on average."""
        return sum(len(step) for step in self.all) / len(self.all)

    def worst_micro_batch(self, max_tokens: int, num_processes: int = 1) -> tuple[int, ...]:
        """Fed tokens of each document of the micro-batch that needs most memory, on the first process."""
        fed = self.workload.train.fed
        steps = self.all[:STEPS_LOOKED_AT]
        sums = np.array([fed[step].sum() for step in steps])
        peaks = np.array([fed[step].max() for step in steps])
        found: tuple[int, ...] = ()
        for number in {*np.argsort(-sums)[:STEPS_CUT].tolist(), int(peaks.argmax())}:
            mine = rank_share(steps[number], fed, 0, num_processes)
            for batch in micro_batches(mine, fed, max_tokens):
                found = max(found, tuple(int(length) for length in fed[batch]), key=_need)
        return found


def _need(lengths: tuple[int, ...]) -> float:
    """What memory grows with: tokens, and the rows that attention pads to (traced in a Llama: 28% of a token each)."""
    if not lengths:
        return 0
    ordered = sorted(lengths, reverse=True)
    return sum(lengths) + sum(bucket.num_documents * bucket.length for bucket in buckets_of(ordered)) / 4


def _split(documents: TokenizedDocuments) -> Split:
    return Split(np.asarray(documents.lengths, dtype=np.int64) - 1, documents.num_targets)


def reference_rows(recipe: Recipe, length: int) -> tuple[int, int]:
    """Rows of a micro-batch, and micro-batches of a step, of a plain Trainer with rows padded to `length`."""
    asked = recipe.train
    micro = length if asked.micro_batch_tokens == "auto" else asked.micro_batch_tokens
    whole = micro if asked.tokens_per_step == "auto" else asked.tokens_per_step
    rows = max(1, micro // length)
    return rows, max(1, math.ceil(whole / (rows * length)))
