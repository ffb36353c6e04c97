"""How well a model predicts documents: loss, perplexity, bits per byte, token accuracy. No logits are kept.

What counts, for every score: the supervised tokens of each document, its end token included, each predicted from all
that stands before it in the document, the start token included. For a plain text that is every token but start.

- loss: nats a token, the sum over all documents / the number of supervised tokens (not a mean of means)
- perplexity: exp(loss); comparable between models with the same tokenizer only
- bits per byte: the same sum in bits / the UTF-8 bytes of the supervised text. What it takes to say where a text ends
  is part of the sum, so documents can be told apart; comparable between any two models
- token accuracy: the share of supervised tokens that were the most likely one
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from tunesmith.data.tokens.steps import rank_shares
from tunesmith.errors import DataError, TrainingError
from tunesmith.fast.batches.layout import flatten, row_multiple
from tunesmith.machine.memory import is_out_of_memory, release_memory
from tunesmith.models.load import evaluation_mode

if TYPE_CHECKING:
    from tunesmith.data import TokenizedDocuments
    from tunesmith.run.artefacts import Plan


LEAST_TOKENS = 1024
"""Of a batch of an evaluation: without gradients little is held, and weights are cast once a batch."""


def batch_tokens(plan: Plan) -> int:
    """Fed tokens of a batch in the evaluations of a run, and in those that are to repeat its numbers."""
    return max(plan.micro_batch_tokens, LEAST_TOKENS)


class Together(Protocol):
    """Processes that score together, each its share of the documents: this one's number, and how many there are."""

    rank: int
    size: int
    shards: bool
    """A pass is an exchange between all, so that all make as many."""

    def sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum of each value over the processes."""
        ...


@dataclass(frozen=True)
class Scores:
    """Scores of one model on one set of documents; `num_tokens` are the supervised ones.

    document_loss: float64 [num_documents], the sum of a document's losses in nats, in the order of the documents.
    """

    loss: float
    perplexity: float
    bits_per_byte: float
    token_accuracy: float
    num_tokens: int
    num_documents: int
    seconds: float
    document_loss: NDArray[np.float64] = field(repr=False)


def evaluate(
    model: Any,
    documents: TokenizedDocuments,
    *,
    max_tokens: int,
    progress: Callable[[int, int], None] | None = None,
    together: Together | None = None,
) -> Scores:
    """Score `documents` with a model that `fast.apply` was applied to, in batches of at most `max_tokens` fed tokens.

    A document longer than that is a batch of its own. When memory runs out, this evaluation goes on with half as many
    tokens; nothing else changes. `progress(done, total)` is told documents, of this process's share where several score
    together. Each of these has the scores of all documents. Raises DataError without documents, and TrainingError for a
    document that does not fit in memory alone.
    """
    if documents.num_targets == 0:
        raise DataError(
            f"evaluate: {len(documents)} documents hold no supervised token. Expected at least one; "
            "raise data.eval_fraction, or check the completion column."
        )
    started = time.monotonic()
    losses = np.zeros(len(documents), dtype=np.float64)
    num_correct = done = 0
    order = np.argsort(-documents.lengths, kind="stable")  # longest first: what does not fit shows at once
    if together is not None and together.size > 1:
        order, idle = _share(order, documents.lengths, max_tokens, together)
    else:
        together, idle = None, 0
    with evaluation_mode(model):
        while done < len(order):
            for batch in _batches(order[done:], documents.lengths, max_tokens):
                scored = _score(model, documents, batch, weights_changed=done == 0)
                if scored is None:
                    max_tokens = _halved(documents, batch, max_tokens, together)
                    break
                losses[batch], correct = scored
                num_correct, done = num_correct + correct, done + len(batch)
                if progress is not None:
                    progress(done, len(order))
        for _ in range(idle):
            _score(model, documents, np.argsort(documents.lengths)[:1], weights_changed=not len(order))
    if together is not None:
        *summed, correct = together.sums(np.append(losses, num_correct))
        losses, num_correct = np.array(summed), round(correct)
    return _scores(documents, losses, num_correct, time.monotonic() - started)


def _share(
    order: NDArray[np.int64], lengths: NDArray[np.int64], max_tokens: int, together: Together
) -> tuple[NDArray[np.int64], int]:
    """This process's documents, longest first, and passes that it must make beside those of its own."""
    shares = rank_shares(order, lengths - 1, together.size)
    passes = [sum(1 for _ in _batches(share, lengths, max_tokens)) if len(share) else 0 for share in shares]
    idle = max(passes) - passes[together.rank] if together.shards else 0
    return shares[together.rank], idle


def _batches(numbers: NDArray[np.int64], lengths: NDArray[np.int64], max_tokens: int) -> Iterator[NDArray[np.int64]]:
    """Consecutive `numbers` whose fed tokens fit `max_tokens`; one number alone may exceed it."""
    first = tokens = 0
    for i, fed in enumerate(lengths[numbers] - 1):
        if i > first and tokens + fed > max_tokens:
            yield numbers[first:i]
            first, tokens = i, 0
        tokens += fed
    yield numbers[first:]


@torch.no_grad()
def _score(
    model: Any, documents: TokenizedDocuments, batch: NDArray[np.int64], *, weights_changed: bool
) -> tuple[NDArray[np.float64], int] | None:
    """Loss of each document of the batch and the number of tokens predicted right; None when memory ran out."""
    try:
        flat = flatten([documents[int(number)] for number in batch], row_multiple(model.device)).to(model.device)
        output = model(flat=flat, denominator=1.0, flat_metrics=True, weights_changed=weights_changed)
        return output.document_loss[: len(batch)].cpu().numpy(), int(output.num_correct)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    release_memory()  # only here: the error's traceback held the tensors
    return None


def _halved(documents: TokenizedDocuments, batch: NDArray[np.int64], max_tokens: int, together: Together | None) -> int:
    if together is not None and together.shards:
        raise TrainingError(
            f"evaluation: a batch of {max_tokens} tokens does not fit in memory, and processes that hold shards cannot "
            "try a smaller one alone. Set train.micro_batch_tokens or train.max_length lower."
        )
    if len(batch) == 1:
        number = int(batch[0])
        raise TrainingError(
            f"{documents.row_name(number)}: its {documents.lengths[number]} tokens do not fit in memory even alone. "
            "Set train.max_length lower, or use a smaller model."
        )
    fed = int((documents.lengths[batch] - 1).sum())
    return max(1, min(max_tokens, fed) // 2)


def _scores(documents: TokenizedDocuments, losses: NDArray[np.float64], num_correct: int, seconds: float) -> Scores:
    total, num_tokens, num_bytes = float(losses.sum()), documents.num_targets, int(documents.num_bytes.sum())
    loss = total / num_tokens
    return Scores(
        loss=loss,
        perplexity=math.exp(loss) if loss < 700 else math.inf,
        bits_per_byte=total / math.log(2) / num_bytes if num_bytes else math.nan,
        token_accuracy=num_correct / num_tokens,
        num_tokens=num_tokens,
        num_documents=len(documents),
        seconds=seconds,
        document_loss=losses,
    )
