"""Tokenised documents as flat, memory-mapped arrays; the value that every later stage reads.

A document is [start] text [end]. All documents of a split lie behind one another in one array, so that a data set
larger than memory costs no more memory than the documents that are being looked at.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.arrays import load_array, passes, release
from tunesmith.run.artefacts import DataAccount, Record

ARRAYS = {"tokens": np.int32, "offsets": np.int64, "supervised": np.bool_, "rows": np.int64, "num_bytes": np.int64}
PASS_DOCUMENTS = 1 << 14
ORIGIN_ARRAYS = {"file_of": np.int32, "spans": np.int64, "slice_of": np.int32}


@dataclass(frozen=True, eq=False)
class Origins:
    """Where documents came from: their original text and the file and row of each.

    files: names as messages show them. first_rows: the number that a file's first row is called by (2 below a header).
    file_of: [N] index into files. spans: [N, 3] byte where the text begins, where its first supervised byte lies, and
    where it ends, in `text` (UTF-8).
    """

    files: tuple[str, ...]
    first_rows: tuple[int, ...]
    file_of: NDArray[np.int32]
    spans: NDArray[np.int64]
    text: NDArray[np.uint8]

    def slice_text(self, begin: int, end: int) -> str:
        return self.text[begin:end].tobytes().decode("utf-8", errors="replace")


@dataclass(frozen=True, eq=False)
class TokenizedDocuments:
    """The documents of one split.

    tokens: int32 [total], all documents behind one another. offsets: int64 [N + 1] into tokens.
    supervised: bool [total], or None when every token but the first of each document is a target.
    rows: int64 [N], 0-based row of the source file. num_bytes: int64 [N], UTF-8 bytes of the supervised text.
    slices: [N] values of the column by which the held-out loss is also reported, or None.
    """

    tokens: NDArray[np.int32]
    offsets: NDArray[np.int64]
    supervised: NDArray[np.bool_] | None
    rows: NDArray[np.int64]
    num_bytes: NDArray[np.int64]
    slices: list[str] | None = None
    origins: Origins | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Token ids, start and end included, and which of them are targets."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        begin, end = int(self.offsets[index]), int(self.offsets[index + 1])
        ids = self.tokens[begin:end]
        if self.supervised is not None:
            return ids, self.supervised[begin:end]
        supervised = np.ones(end - begin, dtype=np.bool_)
        supervised[:1] = False
        return ids, supervised

    def __iter__(self) -> Iterator[tuple[NDArray[np.int32], NDArray[np.bool_]]]:
        return (self[index] for index in range(len(self)))

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """[N] tokens of each document, start and end included. It feeds one fewer: the last predicts nothing."""
        lengths: NDArray[np.int64] = self.offsets[1:] - self.offsets[:-1]
        return lengths

    @cached_property
    def num_targets(self) -> int:
        """Supervised tokens of all documents."""
        if self.supervised is None:
            return len(self.tokens) - len(self)
        return sum(int(np.count_nonzero(part)) for part in passes(self.supervised))

    @cached_property
    def targets_per_document(self) -> NDArray[np.int64]:
        """[N] supervised tokens of each document."""
        if self.supervised is None:
            return self.lengths - 1
        up_to, done, before = np.zeros(len(self) + 1, dtype=np.int64), 0, 0
        for part in passes(self.supervised):
            inside = slice(*np.searchsorted(self.offsets, [done + 1, done + len(part) + 1]))
            counts = np.cumsum(part, dtype=np.int32)
            up_to[inside] = before + counts[self.offsets[inside] - done - 1]
            done, before = done + len(part), before + int(counts[-1])
        targets: NDArray[np.int64] = np.diff(up_to)
        return targets

    @cached_property
    def last_tokens(self) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """[N] the last token of each document, and whether it is a target."""
        places, learned = self.offsets[1:] - 1, np.ones(len(self), dtype=np.bool_)
        ids = np.empty(len(self), dtype=np.int32)
        for begin in range(0, len(self), PASS_DOCUMENTS):
            part = slice(begin, begin + PASS_DOCUMENTS)
            ids[part] = self.tokens[places[part]]
            if self.supervised is not None:
                learned[part] = self.supervised[places[part]]
            self.let_go()
        return ids, learned

    def let_go(self) -> None:
        """Give back the memory that looking at documents took; what is looked at again comes from the files again."""
        for array in (self.tokens, self.supervised, None if self.origins is None else self.origins.text):
            if array is not None:
                release(array)

    def text(self, index: int) -> str | None:
        """The original text of a document, prompt included, when it is kept."""
        if self.origins is None:
            return None
        begin, _, end = self.origins.spans[index]
        return self.origins.slice_text(begin, end)

    def prompt_text(self, index: int) -> str | None:
        """The part of `text` before the first supervised character; empty for plain text."""
        if self.origins is None:
            return None
        begin, first, _ = self.origins.spans[index]
        return self.origins.slice_text(begin, first)

    def row_name(self, index: int) -> str:
        """`shows.csv:17`: the file and the row that a spreadsheet or editor shows for it."""
        row = int(self.rows[index])
        if self.origins is None:
            return f"row {row + 1}"
        file = int(self.origins.file_of[index])
        return f"{self.origins.files[file]}:{row + self.origins.first_rows[file]}"

    def take(self, indices: NDArray[np.int64]) -> TokenizedDocuments:
        """Some of the documents, in this order, held in memory; their original text stays where it is."""
        begins, lengths = self.offsets[indices], self.lengths[indices]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        at = np.repeat(begins - offsets[:-1], lengths) + np.arange(offsets[-1])
        origins = self.origins
        if origins is not None:
            origins = replace(origins, file_of=origins.file_of[indices], spans=origins.spans[indices])
        return TokenizedDocuments(
            tokens=self.tokens[at],
            offsets=offsets,
            supervised=None if self.supervised is None else self.supervised[at],
            rows=self.rows[indices],
            num_bytes=self.num_bytes[indices],
            slices=None if self.slices is None else [self.slices[index] for index in indices.tolist()],
            origins=origins,
        )

    @classmethod
    def from_lists(cls, documents: Sequence[tuple[Sequence[int], Sequence[bool] | None]]) -> TokenizedDocuments:
        """Documents held in memory, from (ids, supervised) pairs; the row of each is its index."""
        lengths = [len(ids) for ids, _ in documents]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        tokens = np.array([token for ids, _ in documents for token in ids], dtype=np.int32)
        masks = [
            np.arange(len(ids)) > 0 if supervised is None else np.array(supervised, bool)
            for ids, supervised in documents
        ]
        plain = all(supervised is None for _, supervised in documents)
        return cls(
            tokens=tokens,
            offsets=offsets,
            supervised=None if plain else np.concatenate(masks),
            rows=np.arange(len(documents), dtype=np.int64),
            num_bytes=np.array([int(mask.sum()) for mask in masks], dtype=np.int64),
        )


@dataclass(frozen=True, eq=False)
class NearGroups:
    """Which rows are almost the same, as the split compared them.

    begins: [R] byte of `Origins.text` where each row begins, ascending. groups: [R] rows of one group share a number.
    """

    begins: NDArray[np.int64]
    groups: NDArray[np.int64]

    def rows_at(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row that each of some bytes stands in."""
        return np.searchsorted(self.begins, places, side="right") - 1


@dataclass(frozen=True, eq=False)
class Data:
    """The prepared data: three splits, what happened on the way (data.json), and a fingerprint of all of it."""

    train: TokenizedDocuments
    eval: TokenizedDocuments
    test: TokenizedDocuments
    account: DataAccount
    fingerprint: str
    near: NearGroups | None = None
    """None where the split did not compare every row."""


class SplitAbout(Record):
    """What a split's arrays do not say: about.json beside them.

    masked: not every token but the first of each document is a target. slices: names by code.
    """

    masked: bool
    files: tuple[str, ...]
    first_rows: tuple[int, ...]
    slices: tuple[str, ...] | None


def load_documents(folder: Path, text: NDArray[np.uint8]) -> TokenizedDocuments:
    """The split that lies in `folder`; `text` holds the original text of all splits."""
    arrays = {name: load_array(folder / f"{name}.npy") for name in (*ARRAYS, *ORIGIN_ARRAYS)}
    path = folder / "about.json"
    about = SplitAbout.parse(json.loads(path.read_text(encoding="utf-8")), str(path))
    names = about.slices
    origins = Origins(
        files=about.files,
        first_rows=about.first_rows,
        file_of=arrays["file_of"],
        spans=arrays["spans"].reshape(-1, 3),
        text=text,
    )
    return TokenizedDocuments(
        tokens=arrays["tokens"],
        offsets=arrays["offsets"],
        supervised=arrays["supervised"] if about.masked else None,
        rows=arrays["rows"],
        num_bytes=arrays["num_bytes"],
        slices=None if names is None else [names[code] for code in arrays["slice_of"]],
        origins=origins,
    )
