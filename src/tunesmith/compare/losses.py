"""Losses of documents in, scores with intervals out: held-out rows, slices of them, general text. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tunesmith.compare.intervals import Bootstrap, Floats, interval, weighted_mean
from tunesmith.compare.scores import AMOUNT, make_score
from tunesmith.run.artefacts import GroupLoss, Interval, Score


@dataclass(frozen=True)
class DocumentLosses:
    """Loss of base and tuned on the same documents."""

    base: Floats
    """Nats summed over the supervised tokens, per document [N]."""
    tuned: Floats
    num_tokens: Floats
    """Supervised tokens per document [N]."""
    num_bytes: Floats
    """UTF-8 bytes of the supervised text per document [N]."""

    def take(self, chosen: Sequence[int]) -> DocumentLosses:
        """Some of the documents."""
        at = np.array(chosen, int)
        return DocumentLosses(self.base[at], self.tuned[at], self.num_tokens[at], self.num_bytes[at])


def score_losses(losses: DocumentLosses, *, seed: int = 0) -> dict[str, Score]:
    """Loss, perplexity and bits per byte, with bootstrap intervals over documents."""
    bootstrap = Bootstrap(len(losses.base), seed)
    loss = make_score(
        bootstrap,
        {
            "base": weighted_mean(losses.base, losses.num_tokens),
            "tuned": weighted_mean(losses.tuned, losses.num_tokens),
        },
        AMOUNT,
        title="Held-out loss",
        meaning="Mean negative log-likelihood of a token of the held-out texts",
        better="lower",
        unit="nats per token",
    )
    scores = {"heldout_loss": loss, "heldout_perplexity": _perplexity(loss)}
    if losses.num_bytes.sum() > 0:
        bits = 1 / math.log(2)
        scores["heldout_bits_per_byte"] = make_score(
            bootstrap,
            {
                "base": weighted_mean(losses.base * bits, losses.num_bytes),
                "tuned": weighted_mean(losses.tuned * bits, losses.num_bytes),
            },
            AMOUNT,
            title="Bits per byte",
            meaning="Held-out loss per byte of text: comparable between tokenizers",
            better="lower",
            unit="bits",
        )
    return scores


def _perplexity(loss: Score) -> Score:
    def exponential(of: Interval | None) -> Interval | None:
        if of is None:
            return None
        with np.errstate(over="ignore"):
            value, low, high = (math.nan if x is None else np.exp(x) for x in (of.value, of.low, of.high))
            return interval(value, low, high)

    return Score(
        title="Perplexity",
        meaning="exp(loss): among how many equally likely tokens the model hesitates",
        better="lower",
        unit="tokens",
        base=exponential(loss.base),
        tuned=exponential(loss.tuned),
        real=None,
        change=None,
        gap=None,
    )


def loss_by_group(losses: DocumentLosses, groups: Sequence[str], *, seed: int = 0) -> tuple[GroupLoss, ...]:
    """One row a group, the largest first."""
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    rows = []
    for group, chosen in sorted(members.items(), key=lambda item: (-len(item[1]), item[0])):
        part = losses.take(chosen)
        score = score_losses(part, seed=seed)["heldout_loss"]
        assert score.base is not None
        assert score.tuned is not None
        assert score.change is not None
        rows.append(
            GroupLoss(
                name=group,
                num_documents=len(chosen),
                num_tokens=int(part.num_tokens.sum()),
                base=score.base,
                tuned=score.tuned,
                change=score.change,
            )
        )
    return tuple(rows)
