"""The documents of a run in optimizer steps, and each step's tokens as flat batches on the device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from tunesmith.data import TokenizedDocuments
from tunesmith.data.tokens.steps import Indices, micro_batches, rank_share, rank_shares, run_steps
from tunesmith.fast.batches.layout import FlatBatch, Size, flatten, row_multiple
from tunesmith.fast.batches.sizes import choose_sizes, size_for
from tunesmith.run.artefacts import Plan


@dataclass(frozen=True)
class Batches:
    """What is trained on, cut as the plan says. The order follows from the seed alone."""

    documents: TokenizedDocuments
    plan: Plan
    device: torch.device

    @cached_property
    def fed_tokens(self) -> NDArray[np.int64]:
        """[N] tokens that each document feeds: all but its last."""
        return np.asarray(self.documents.lengths, dtype=np.int64) - 1

    @cached_property
    def steps(self) -> list[Indices]:
        """The documents of each optimizer step of the run."""
        plan = self.plan
        return run_steps(
            self.fed_tokens, plan.tokens_per_step, seed=plan.seed, epochs=plan.epochs, max_steps=plan.num_steps
        )

    @cached_property
    def fed_before(self) -> NDArray[np.int64]:
        """[num_steps + 1] tokens that were fed before each step, and in all."""
        return np.concatenate([[0], np.cumsum([self.num_fed(step) for step in self.steps])])

    def epoch(self, step: int) -> float:
        """How often the data was seen after `step` steps."""
        return float(self.fed_before[step] / max(1, self.fed_tokens.sum()))

    def num_fed(self, step: Indices) -> int:
        return int(self.fed_tokens[step].sum())

    def num_targets(self, step: Indices) -> int:
        """Supervised tokens of a whole step, over all processes."""
        return int(self.documents.targets_per_document[step].sum())

    def parts(self, step: Indices, max_tokens: int, rank: int, num_processes: int) -> list[Indices]:
        """This process's share of a step in micro-batches; none where there are fewer documents than processes."""
        return self._cut(rank_share(step, self.fed_tokens, rank, num_processes), max_tokens)

    def num_passes(self, step: Indices, max_tokens: int, num_processes: int) -> int:
        """Micro-batches of the process that has most of a step."""
        return max(len(self._cut(share, max_tokens)) for share in rank_shares(step, self.fed_tokens, num_processes))

    def _cut(self, share: Indices, max_tokens: int) -> list[Indices]:
        return micro_batches(share, self.fed_tokens, max_tokens) if len(share) else []

    def flat(self, part: Indices) -> FlatBatch:
        """The documents of one micro-batch, on this process's device."""
        return flatten([self.documents[int(index)] for index in part], row_multiple(self.device)).to(self.device)

    @cached_property
    def sizes(self) -> tuple[Size, ...]:
        """What the steps of the run that take one pass are filled up to, where the plan says so; none otherwise."""
        if not self.plan.cuda_graphs:
            return ()
        steps = [step for step in self.steps if self._is_one_pass(step, self.plan.micro_batch_tokens)]
        tokens, targets, documents = (
            np.array([number(step) for step in steps], dtype=np.int64)
            for number in (self.num_fed, self.num_targets, len)
        )
        return choose_sizes(tokens, targets, documents, int(self.fed_tokens.max()))

    def size_of(self, step: Indices, max_tokens: int) -> Size | None:
        """What a step in passes of at most `max_tokens` is filled up to; None where it stays as it is."""
        if not self.sizes or not self._is_one_pass(step, max_tokens):
            return None
        return size_for(self.sizes, self.num_fed(step), self.num_targets(step), len(step))

    def filled(self, step: Indices, size: Size) -> FlatBatch:
        """A whole step filled up to a size, on the CPU."""
        return flatten([self.documents[int(index)] for index in step], size=size)

    def examples(self, first: int, max_tokens: int) -> list[tuple[FlatBatch, float]]:
        """Of each size that the steps from `first` on have, the first step: filled up, and its number of targets."""
        found: dict[Size, Indices] = {}
        for step in self.steps[first:] if self.sizes else ():
            size = self.size_of(step, max_tokens)
            if size is not None:
                found.setdefault(size, step)
            if len(found) == len(self.sizes):
                break
        return [(self.filled(step, size), self.num_targets(step)) for size, step in found.items()]

    def _is_one_pass(self, step: Indices, max_tokens: int) -> bool:
        return self.num_fed(step) <= max_tokens or len(step) == 1

    def worst(self) -> Indices:
        """The largest step of the run, with the longest document in it."""
        largest = max(self.steps, key=self.num_fed)
        longest = max(self.steps, key=lambda step: int(self.fed_tokens[step].max()))
        return np.unique(np.concatenate([largest, longest[np.argmax(self.fed_tokens[longest])][None]]))
