"""A share of the training rows: nested, so that a smaller share is part of every greater one."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.account import describe
from tunesmith.data.split.assign import uniform
from tunesmith.data.tokens.documents import Data, TokenizedDocuments

_ROW_BITS = np.uint64(40)


def count_rows(data: Data) -> int:
    """Training rows; one whose long text became several documents is one row."""
    return len(np.unique(_keys(data.train)))


def share_of(data: Data, num_rows: int, *, seed: int, last: bool = False) -> Data:
    """The data with `num_rows` of its training rows; what is held out stays as it is.

    Rows stand in an order that depends on the seed and on the row's number alone, the same for every tokenizer. last:
    from the end of that order, which for up to half of the rows are others. A row is taken whole.
    """
    keys = _keys(data.train)
    rows, row_of = np.unique(keys, return_inverse=True)
    order = np.argsort(uniform(rows, seed), kind="stable")
    taken = np.zeros(len(rows), dtype=np.bool_)
    taken[order[-num_rows:] if last else order[:num_rows]] = True
    train = data.train.take(np.flatnonzero(taken[row_of]))
    splits = {**data.account.splits, "train": describe(train)}
    fingerprint = hashlib.blake2b("".join(split.fingerprint for split in splits.values()).encode(), digest_size=8)
    changes: dict[str, Any] = {"splits": splits, "fingerprint": fingerprint.hexdigest()}
    account = data.account.model_copy(update=changes)
    return replace(data, train=train, account=account, fingerprint=account.fingerprint)


def _keys(documents: TokenizedDocuments) -> NDArray[np.uint64]:
    """[N] the file and row of each document as one number."""
    rows = documents.rows.astype(np.uint64)
    if documents.origins is None:
        return rows
    return (documents.origins.file_of.astype(np.uint64) << _ROW_BITS) | rows
