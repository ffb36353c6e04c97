"""Flat batches: documents one after another, no padding, and where each document lies for attention.

Legend of the suffixes of tensor names in this package:
    T  fed tokens of all documents    N  supervised positions    B  documents of a bucket    L  their longest
    H  query heads    G  key/value heads    D  head dimension    E  hidden size    V  vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from tunesmith.errors import DataError, ModelError

IGNORED = -100
BUCKET_FILL = 0.75
"""A document joins a bucket when it fills at least this share of the bucket's length: see `buckets_of`."""
BUCKET_SLACK = 4
"""Documents that differ by no more tokens than this share a bucket whatever the share."""


@dataclass(frozen=True)
class Bucket:
    """Neighbouring documents of similar length, padded to a common length inside attention only.

    They lie in rows [begin, end) of the flat batch. rows: int64 [B * L], the row (from begin) that each padded row
    copies; a junk row repeats its document's last token. slots: int64 [end - begin], the padded row of each flat row.
    Both are None when every document has `length` tokens, because nothing is padded then.
    """

    begin: int
    end: int
    num_documents: int
    length: int
    rows: Tensor | None
    slots: Tensor | None


Document = tuple[Sequence[int] | np.ndarray, "np.ndarray | Sequence[bool] | None"]


@dataclass(frozen=True, order=True)
class Size:
    """What a batch is filled up to, so that many batches have one shape.

    tokens: T. targets: N, rows that the head sees; `tokens` where it sees all. documents: places in cu_seqlens.
    longest: what attention is told of the longest document, for every batch the same.
    """

    tokens: int
    targets: int
    documents: int
    longest: int

    def holds(self, tokens: int, targets: int, documents: int) -> bool:
        """Whether documents with so many fed tokens and targets, none above `longest`, can be filled up to it."""
        return (
            tokens <= self.tokens
            and targets <= self.targets
            and documents + fillers(self.tokens - tokens, self.longest) <= self.documents
        )


def fillers(missing: int, longest: int) -> int:
    """Documents without targets that `missing` tokens make: one, or more where attention would not see its end."""
    return -(-missing // longest)


@dataclass
class FlatBatch:
    """Documents concatenated, without padding, longest first. T = sum(lengths) fed tokens.

    input_ids, position_ids (0.. in each document) and targets are int64 [T]; input_ids[i] predicts targets[i], and -100
    marks a position that is not supervised. lengths: fed tokens per document, the document's length minus one because
    its last token predicts nothing. cu_seqlens: int32 [documents + 1], the first row of each document and T.
    order: for each document in the batch, its number in the caller's list. size: what it was filled up to; cu_seqlens
    is then as long as that says, its unused places hold T.
    """

    input_ids: Tensor
    position_ids: Tensor
    targets: Tensor
    lengths: tuple[int, ...]
    cu_seqlens: Tensor
    num_targets: int
    order: tuple[int, ...]
    size: Size | None = None
    _buckets: list[Bucket] | None = field(default=None, repr=False)
    _target_rows: Tensor | None = field(default=None, repr=False)

    @property
    def num_tokens(self) -> int:
        """T, the number of fed tokens."""
        return len(self.input_ids)

    @property
    def max_length(self) -> int:
        """Fed tokens of the longest document; of a batch that was filled up, of the longest that there may be."""
        return self.lengths[0] if self.size is None else self.size.longest

    @property
    def buckets(self) -> list[Bucket]:
        """The gathers for padded attention; built once and shared by all layers.

        Raises ModelError where the lengths are not known: see fixed.py.
        """
        if not self.lengths:
            raise ModelError("attention that pads documents depends on the length of each.")
        if self._buckets is None:
            self._buckets = buckets_of(self.lengths, self.input_ids.device)
        return self._buckets

    @property
    def target_rows(self) -> Tensor | None:
        """int64 [N], the rows that the head sees; None when it sees all.

        They are the supervised ones; of a batch that was filled up, as many others as its size asks for too.
        """
        if self._target_rows is None and self.size is None and self.num_targets < self.num_tokens:
            self._target_rows = (self.targets != IGNORED).nonzero().flatten()
        return self._target_rows

    def document_sums(self, values_N: Tensor) -> Tensor:
        """float64 [documents]: the values of the supervised positions summed per document, in the caller's order."""
        number_T = torch.repeat_interleave(torch.tensor(self.order), torch.tensor(self.lengths)).to(values_N.device)
        rows = self.target_rows
        number_N = number_T if rows is None else number_T.index_select(0, rows)
        sums = torch.zeros(len(self.lengths), dtype=torch.float64, device=values_N.device)
        return sums.index_add_(0, number_N, values_N.double())

    def to(self, device: torch.device | str, *, non_blocking: bool = True) -> FlatBatch:
        """This batch on another device. Its indices are built before the move, so that no step waits for the device."""
        device = torch.device(device)
        if device.type == "cpu" and self.input_ids.device.type == "cpu":
            return self

        def moved(tensor: Tensor) -> Tensor:
            if device.type == "cuda" and tensor.device.type == "cpu":
                tensor = tensor.pin_memory()
            return tensor.to(device, non_blocking=non_blocking)

        rows = self.target_rows
        return replace(
            self,
            input_ids=moved(self.input_ids),
            position_ids=moved(self.position_ids),
            targets=moved(self.targets),
            cu_seqlens=moved(self.cu_seqlens),
            _buckets=None,
            _target_rows=moved(rows) if rows is not None else None,
        )


def row_multiple(device: torch.device) -> int:
    """What the rows of a batch should be a multiple of, in the present arithmetic.

    For each number of rows that it has not seen, oneDNN makes kernels for bfloat16 products that stay in memory:
    about 9 MB for SmolLM2-135M. A step of 1,000 tokens would come in 60 sizes; this leaves three.
    """
    return 32 if device.type == "cpu" and torch.is_autocast_enabled("cpu") else 1


def flatten(documents: Sequence[Document], multiple: int = 1, size: Size | None = None) -> FlatBatch:
    """One FlatBatch of `documents`, each (ids, supervised).

    ids include the start and end tokens; supervised[i] says that ids[i] is a target, and None that every token but the
    first is. The first token of a document is never a target. With `multiple`, a document without targets fills T up to
    a multiple of it; with `size`, which must hold the documents, everything is filled up to that. Such documents stand
    last in the caller's order. Raises DataError for a document of fewer than two tokens.
    """
    if not documents:
        raise DataError("flatten: got no documents. Expected at least one.")
    sizes = [len(ids) for ids, _ in documents]
    if min(sizes) < 2:
        number = sizes.index(min(sizes))
        raise DataError(f"flatten: document {number} has {sizes[number]} tokens. Expected start and end at least.")
    fed = sum(sizes) - len(sizes)
    missing, longest = (-fed % multiple, multiple) if size is None else (size.tokens - fed, size.longest)
    for _ in range(fillers(missing, longest)):
        length = min(missing, longest)
        filler: Document = (np.zeros(length + 1, dtype=np.int64), np.zeros(length + 1, dtype=bool))
        documents, sizes, missing = [*documents, filler], [*sizes, length + 1], missing - length
    order = sorted(range(len(documents)), key=lambda number: -sizes[number])
    inputs, targets = [], []
    for ids, supervised in (documents[number] for number in order):
        tokens = np.asarray(ids, dtype=np.int64)
        following = tokens[1:]
        if supervised is not None:
            following = np.where(np.asarray(supervised, dtype=bool)[1:], following, IGNORED)
        inputs.append(tokens[:-1])
        targets.append(following)
    lengths = tuple(sizes[number] - 1 for number in order)
    target_T = np.concatenate(targets)
    batch = FlatBatch(
        input_ids=torch.from_numpy(np.concatenate(inputs)),
        position_ids=torch.from_numpy(np.concatenate([np.arange(length) for length in lengths])),
        targets=torch.from_numpy(target_T),
        lengths=lengths,
        cu_seqlens=torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)),
        num_targets=int((target_T != IGNORED).sum()),
        order=tuple(order),
    )
    return batch if size is None else _filled(batch, size)


def _filled(batch: FlatBatch, size: Size) -> FlatBatch:
    """The batch with as many rows for the head and places in cu_seqlens as its size says."""
    assert batch.num_tokens == size.tokens
    assert batch.num_targets <= size.targets
    unused = size.documents - len(batch.lengths)
    rows = None
    if size.targets < size.tokens:
        supervised = batch.targets.numpy() != IGNORED
        others = np.flatnonzero(~supervised)[: size.targets - batch.num_targets]  # different rows: none is added twice
        rows = torch.from_numpy(np.sort(np.concatenate([np.flatnonzero(supervised), others])))
    places = (batch.cu_seqlens, torch.full((unused,), size.tokens, dtype=torch.int32))
    return replace(batch, cu_seqlens=torch.cat(places), size=size, _target_rows=rows)


def buckets_of(lengths: Sequence[int], device: torch.device | str = "cpu") -> list[Bucket]:
    """Buckets of documents that lie one after another, longest first.

    Attention over a document padded to length L costs L x L, so one long document must not pad many short ones.
    """
    buckets, begin, first = [], 0, 0
    while first < len(lengths):
        longest, last = lengths[first], first
        while last < len(lengths) and (
            lengths[last] >= BUCKET_FILL * longest or longest - lengths[last] <= BUCKET_SLACK
        ):
            last += 1
        bucket = _bucket(begin, lengths[first:last], device)
        buckets.append(bucket)
        begin, first = bucket.end, last
    return buckets


def _bucket(begin: int, lengths: Sequence[int], device: torch.device | str) -> Bucket:
    longest, end = lengths[0], begin + sum(lengths)
    if lengths[-1] == longest:
        return Bucket(begin, end, len(lengths), longest, None, None)
    size_B1 = np.array(lengths)[:, None]
    first_row_B1 = np.cumsum(size_B1, 0) - size_B1
    position_1L = np.arange(longest)[None]
    rows_BL = first_row_B1 + np.minimum(position_1L, size_B1 - 1)
    slots = np.flatnonzero(position_1L < size_B1)
    return Bucket(
        begin,
        end,
        len(lengths),
        longest,
        torch.from_numpy(rows_BL.reshape(-1)).to(device),
        torch.from_numpy(slots).to(device),
    )
