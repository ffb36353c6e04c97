"""The round trip: what was exported predicts and writes what the tuned model in memory does, or it is not an export.

Every engine is asked the same of the same rows: the log-probability of each supervised token, which token is the
likeliest there, and what follows a few openings when the likeliest token is taken each time. Where the two likeliest
tokens are nearly as likely (`tie_nats`), rounding decides between them, and either is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.errors import ModelError
from tunesmith.run.artefacts import Quant, RoundTrip

if TYPE_CHECKING:
    from tunesmith.data.tokens.documents import TokenizedDocuments

NUM_OPENINGS = 3
OPENING_TOKENS = 12
NEW_TOKENS = 16


@dataclass(frozen=True)
class Row:
    """A document: its tokens, start and end included, and which of them are targets."""

    ids: tuple[int, ...]
    is_target: tuple[bool, ...]

    def cut(self, length: int) -> Row:
        return Row(self.ids[:length], self.is_target[:length])

    @property
    def places(self) -> list[int]:
        """Where the targets stand."""
        return [place for place, target in enumerate(self.is_target) if target and place]


@dataclass(frozen=True)
class Tolerance:
    """How far an engine may be from the tuned model, in nats, and the least share of equal likeliest tokens."""

    loss: float
    tie: float
    same_first: float


TOLERANCES: dict[Quant, Tolerance] = {
    "f32": Tolerance(0.002, 0.05, 0.99),
    "f16": Tolerance(0.005, 0.06, 0.99),
    "bf16": Tolerance(0.02, 0.25, 0.97),
    "q8_0": Tolerance(0.03, 0.3, 0.96),
    "q5_1": Tolerance(0.05, 0.4, 0.95),
    "q4_0": Tolerance(0.05, 0.4, 0.95),
    "q4_k_m": Tolerance(0.05, 0.4, 0.95),
}
"""From q8_0 on against the rounded weights: what is left is that llama.cpp rounds activations to 8 bits."""


@dataclass(frozen=True)
class Seen:
    """What one engine made of the rows.

    logprobs, first: of the targets of all rows behind one another; NaN and -1 where the engine gave none. margins: how
    much likelier the likeliest token is than the next; texts: what followed each opening; text_margins likewise.
    """

    logprobs: NDArray[np.float64]
    first: NDArray[np.int64]
    margins: NDArray[np.float64]
    texts: tuple[tuple[int, ...], ...]
    text_margins: tuple[tuple[float, ...], ...]

    @property
    def loss(self) -> float:
        return float(-np.nanmean(self.logprobs))


@dataclass(frozen=True)
class Engine:
    """What loaded an export again, with its version, and how long it took."""

    name: str
    seconds: float


def rows_of(documents: TokenizedDocuments, context: int | None) -> list[Row]:
    """The documents, cut where the context of what is exported ends."""
    rows = [Row(tuple(ids.tolist()), tuple(supervised.tolist())) for ids, supervised in documents]
    return [row if context is None else row.cut(context) for row in rows]


def first_rows(rows: Sequence[Row], num_targets: int) -> list[Row]:
    """As many rows as hold about `num_targets` targets; the last is cut there."""
    chosen, left = list[Row](), num_targets
    for row in rows:
        if left <= 0:
            break
        places = row.places
        chosen.append(row if len(places) <= left else row.cut(places[left - 1] + 1))
        left -= len(places)
    return chosen


def openings(rows: Sequence[Row]) -> list[tuple[int, ...]]:
    """How the first rows begin: what stands before the first target, or the first tokens of a text."""
    begun = [row.ids[: max(OPENING_TOKENS, *row.places[:1], 1)] for row in rows if len(row.ids) > 2]
    return [ids[:-1] if len(ids) > 2 else ids for ids in begun[:NUM_OPENINGS]]


def observe(model: Any, rows: Sequence[Row], begun: Sequence[tuple[int, ...]] = ()) -> Seen:
    """What a model of transformers makes of the rows, one row at a time, as anyone would call it."""
    import torch

    logprobs, first, margins = list[float](), list[int](), list[float]()
    device = next(model.parameters()).device
    with torch.no_grad():
        for row in rows:
            places = torch.tensor(row.places, device=device)
            ids = torch.tensor([row.ids], device=device)
            logits_NV = model(input_ids=ids).logits[0, places - 1].float().log_softmax(-1)
            logprobs += logits_NV.gather(1, ids[0, places, None])[:, 0].tolist()
            best = logits_NV.topk(2)
            first += best.indices[:, 0].tolist()
            margins += (best.values[:, 0] - best.values[:, 1]).tolist()
        written = [_write(model, list(ids), device) for ids in begun]
    return Seen(
        np.array(logprobs),
        np.array(first, dtype=np.int64),
        np.array(margins),
        tuple(tuple(ids) for ids, _ in written),
        tuple(tuple(gaps) for _, gaps in written),
    )


def _write(model: Any, ids: list[int], device: Any) -> tuple[list[int], list[float]]:
    """The likeliest token each time, and by how much."""
    import torch

    new, margins = list[int](), list[float]()
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None) or len(ids) + NEW_TOKENS
    for _ in range(min(NEW_TOKENS, limit - len(ids))):
        logits_V = model(input_ids=torch.tensor([ids + new], device=device)).logits[0, -1].float().log_softmax(-1)
        best = logits_V.topk(2)
        new.append(int(best.indices[0]))
        margins.append(float(best.values[0] - best.values[1]))
    return new, margins


def part_of(seen: Seen, part: Sequence[Row]) -> Seen:
    """What was seen of the first rows, of which the last may be cut."""
    number = sum(len(row.places) for row in part)
    return replace(seen, logprobs=seen.logprobs[:number], first=seen.first[:number], margins=seen.margins[:number])


def round_trip(
    by: Engine, expected: Seen, found: Seen, rows: Sequence[Row], quant: Quant, tuned: Seen | None = None
) -> RoundTrip:
    """Both side by side; `passed` says whether they agree within the format's tolerance.

    tuned: what the tuned model made of the rows, where `expected` is of its weights rounded to the type of the file.
    """
    tolerance, listed = TOLERANCES[quant], np.isfinite(found.logprobs)
    ties = expected.margins < tolerance.tie
    same = ((expected.first == found.first) | ties)[listed]
    texts = [
        _same_text(*both, tolerance.tie)
        for both in zip(expected.texts, expected.text_margins, found.texts, strict=True)
    ]
    differences = np.abs(found.logprobs - expected.logprobs)[listed]
    return RoundTrip(
        engine=by.name,
        against="the tuned model" if tuned is None else f"the tuned model with its weights rounded to {quant}",
        num_documents=len(rows),
        num_tokens=int(listed.sum()),
        num_unlisted=int((~listed).sum()),
        loss=_loss(found, listed),
        expected_loss=_loss(expected, listed),
        tuned_loss=_loss(expected if tuned is None else tuned, listed),
        loss_tolerance=tolerance.loss,
        same_first=float(same.mean()) if listed.any() else 0.0,
        same_first_least=tolerance.same_first,
        tie_nats=tolerance.tie,
        largest_difference=float(differences.max()) if listed.any() else float("nan"),
        num_texts=len(texts),
        same_texts=sum(texts),
        seconds=by.seconds,
    )


def _loss(seen: Seen, listed: NDArray[np.bool_]) -> float:
    return float(-seen.logprobs[listed].mean()) if listed.any() else float("nan")


def _same_text(expected: tuple[int, ...], margins: tuple[float, ...], found: tuple[int, ...], tie_nats: float) -> bool:
    """Equal as far as both go, or parted at a near tie."""
    for token, margin, other in zip(expected, margins, found, strict=False):
        if token != other:
            return margin < tie_nats
    return True


def check_passed(trip: RoundTrip, what: str) -> None:
    """Raise ModelError with what differed."""
    if trip.passed:
        return
    raise ModelError(
        f"export {what}: loaded again by {trip.engine}, it is not {trip.against}: loss {trip.loss:.4f} on "
        f"{trip.num_tokens} held-out tokens, expected {trip.expected_loss:.4f} within {trip.loss_tolerance:g}; the "
        f"same likeliest token {trip.same_first:.1%} of the time, expected {trip.same_first_least:.0%}; "
        f"{trip.same_texts} of {trip.num_texts} texts the same. Nothing was written. Try --quant f32; if that differs "
        "too, please report it with the model's name."
    )
