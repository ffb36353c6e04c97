"""Flat batches: documents one after another, no padding, and where each document lies for attention.

Legend of the suffixes of tensor names in this package:
    T  fed tokens of all documents    P  rows of the padded copy inside attention    N  supervised positions
    H  query heads    G  key/value heads    D  head dimension    E  hidden size    V  vocabulary
    B  documents of a bucket    L  longest document of a bucket
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from tunesmith.errors import DataError

IGNORED = -100
BUCKET_FILL = 0.75
"""A document joins a bucket when it fills at least this share of the bucket's length: see `buckets_of`."""
BUCKET_SLACK = 4
"""Documents that differ by no more tokens than this share a bucket whatever the share."""


@dataclass(frozen=True)
class Bucket:
    """Documents of similar length, padded to a common length inside attention only."""

    num_documents: int
    length: int
    full: bool
    """Every document has exactly `length` tokens."""


@dataclass(frozen=True)
class PaddedIndex:
    """Gathers between the flat rows and the padded rows of all buckets.

    rows_P: flat row that each padded row copies (a junk row repeats its document's last token);
    slots_T: padded row of each flat token. None when the flat rows already are the padded rows.
    """

    buckets: tuple[Bucket, ...]
    num_rows: int
    rows_P: Tensor | None
    slots_T: Tensor | None

    def to(self, device: torch.device | str) -> PaddedIndex:
        if self.rows_P is None or self.slots_T is None:
            return self
        return replace(
            self,
            rows_P=self.rows_P.to(device, non_blocking=True),
            slots_T=self.slots_T.to(device, non_blocking=True),
        )


@dataclass
class FlatBatch:
    """Documents concatenated, without padding. T = sum(lengths) fed tokens.

    input_ids, position_ids (0.. in each document) and targets are int64 [T]; input_ids[i] predicts targets[i], and -100
    marks a position that is not supervised. lengths: fed tokens per document, the document's length minus one because
    its last token predicts nothing. cu_seqlens: int32 [documents + 1], the first row of each document and T.
    """

    input_ids: Tensor
    position_ids: Tensor
    targets: Tensor
    lengths: tuple[int, ...]
    cu_seqlens: Tensor
    num_targets: int
    _padded: PaddedIndex | None = field(default=None, repr=False)
    _target_rows: Tensor | None = field(default=None, repr=False)

    @property
    def num_tokens(self) -> int:
        """T, the number of fed tokens."""
        return sum(self.lengths)

    @property
    def max_length(self) -> int:
        """Fed tokens of the longest document."""
        return max(self.lengths)

    @property
    def padded(self) -> PaddedIndex:
        """The gather indices for padded attention; built once and shared by all layers."""
        if self._padded is None:
            self._padded = padded_index(self.lengths).to(self.input_ids.device)
        return self._padded

    @property
    def target_rows(self) -> Tensor | None:
        """int64 [N], the rows that are supervised; None when all are."""
        if self.num_targets == self.num_tokens:
            return None
        if self._target_rows is None:
            self._target_rows = (self.targets != IGNORED).nonzero().flatten()
        return self._target_rows

    @property
    def document_of_token(self) -> Tensor:
        """int64 [T], the document that each fed token belongs to."""
        lengths = torch.tensor(self.lengths)
        return torch.repeat_interleave(torch.arange(len(self.lengths)), lengths).to(self.input_ids.device)

    def to(self, device: torch.device | str, *, non_blocking: bool = True) -> FlatBatch:
        """This batch on another device. Its indices are built before the move, so that no step waits for the device."""
        if torch.device(device) == self.input_ids.device:
            return self

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        rows = self.target_rows
        return replace(
            self,
            input_ids=moved(self.input_ids),
            position_ids=moved(self.position_ids),
            targets=moved(self.targets),
            cu_seqlens=moved(self.cu_seqlens),
            _padded=self._padded.to(device) if self._padded is not None else None,
            _target_rows=moved(rows) if rows is not None else None,
        )


Document = tuple[Sequence[int] | np.ndarray, "np.ndarray | Sequence[bool] | None"]


def flatten(documents: Sequence[Document]) -> FlatBatch:
    """One FlatBatch of `documents`, each (ids, supervised).

    ids include the start and end tokens; supervised[i] says that ids[i] is a target, and None that every token but the
    first is. The first token of a document is never a target. Raises DataError for a document of fewer than two tokens.
    """
    if not documents:
        raise DataError("flatten: got no documents. Expected at least one.")
    inputs, targets, positions, lengths = [], [], [], []
    for number, (ids, supervised) in enumerate(documents):
        tokens = np.asarray(ids, dtype=np.int64)
        if len(tokens) < 2:
            raise DataError(f"flatten: document {number} has {len(tokens)} tokens. Expected start and end at least.")
        following = tokens[1:]
        if supervised is not None:
            following = np.where(np.asarray(supervised, dtype=bool)[1:], following, IGNORED)
        inputs.append(tokens[:-1])
        targets.append(following)
        positions.append(np.arange(len(tokens) - 1))
        lengths.append(len(tokens) - 1)
    flat_targets = np.concatenate(targets)
    return FlatBatch(
        input_ids=torch.from_numpy(np.concatenate(inputs)),
        position_ids=torch.from_numpy(np.concatenate(positions)),
        targets=torch.from_numpy(flat_targets),
        lengths=tuple(lengths),
        cu_seqlens=torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)),
        num_targets=int((flat_targets != IGNORED).sum()),
    )


def buckets_of(lengths: Sequence[int]) -> list[list[int]]:
    """Numbers of the documents of each bucket, longest first.

    Attention over a document padded to length L costs L x L, so one long document must not pad many short ones.
    """
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    buckets: list[list[int]] = []
    for number in order:
        longest = lengths[buckets[-1][0]] if buckets else 0
        if buckets and (lengths[number] >= BUCKET_FILL * longest or longest - lengths[number] <= BUCKET_SLACK):
            buckets[-1].append(number)
        else:
            buckets.append([number])
    return buckets


def padded_index(lengths: Sequence[int]) -> PaddedIndex:
    """The gathers for documents of `lengths`, which lie one after another."""
    if len(set(lengths)) == 1:
        return PaddedIndex((Bucket(len(lengths), lengths[0], full=True),), sum(lengths), None, None)
    first_row = np.concatenate([[0], np.cumsum(lengths)])
    slots = np.empty(first_row[-1], dtype=np.int64)
    rows, buckets, num_rows = [], [], 0
    for numbers in buckets_of(lengths):
        longest = lengths[numbers[0]]
        buckets.append(Bucket(len(numbers), longest, full=lengths[numbers[-1]] == longest))
        for number in numbers:
            begin, length = first_row[number], lengths[number]
            rows.append(begin + np.minimum(np.arange(longest), length - 1))
            slots[begin : begin + length] = num_rows + np.arange(length)
            num_rows += longest
    return PaddedIndex(tuple(buckets), num_rows, torch.from_numpy(np.concatenate(rows)), torch.from_numpy(slots))
