"""Rendered rows become token arrays: in batches, on every core, in bounded memory, going on where a kill stopped it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.arrays import ArrayFile
from tunesmith.data.cache import read_state, write_state
from tunesmith.data.rows.spool import Spool
from tunesmith.data.tokens.documents import ARRAYS, ORIGIN_ARRAYS
from tunesmith.data.tokens.encode import Encoded, Encoder
from tunesmith.data.tokens.long import LongCounts, LongDocuments, Piece
from tunesmith.data.tokens.workers import encoded_batches, num_workers
from tunesmith.run.artefacts import LongAccount, Record

if TYPE_CHECKING:
    from tunesmith.models.tokenizer import TextTokenizer

BATCH_ROWS = 2048
BATCH_CHARACTERS = 1 << 21
_SAVE_BATCHES = 32
_WHOLE = "whole_lengths"

Progress = Callable[[int], None]


class SplitState(Record):
    """How far a split is written: rows that were taken, and what that made of them."""

    position: int = 0
    documents: int = 0
    tokens: int = 0
    whole: int = 0
    """Rows whose length before any cut is recorded."""
    long: LongAccount = LongCounts().account()


class SplitWriter:
    """The arrays of one split on disk. Opening it again keeps what `state` counts and cuts off what came after."""

    def __init__(self, folder: Path, state: SplitState) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self.folder = folder
        documents, tokens = state.documents, state.tokens
        kept = dict.fromkeys((*ARRAYS, *ORIGIN_ARRAYS), documents) | {
            "tokens": tokens,
            "supervised": tokens,
            "offsets": documents + 1 if documents else 0,
            "spans": 3 * documents,
            _WHOLE: state.whole,
        }
        types = {**ARRAYS, **ORIGIN_ARRAYS, _WHOLE: np.int32}
        self.files = {name: ArrayFile(folder / f"{name}.npy", dtype, kept[name]) for name, dtype in types.items()}
        if not documents:
            self.files["offsets"].append([0])

    def append(self, **arrays: Any) -> None:
        """Add documents. `lengths` gives their offsets; the others are stored as they are."""
        lengths = arrays.pop("lengths")
        begin = self.files["tokens"].length
        self.files["offsets"].append(begin + np.cumsum(lengths))
        for name, values in arrays.items():
            self.files[name].append(values)

    def state(self, position: int, long: LongCounts) -> SplitState:
        """What a later process needs to go on from here."""
        for file in self.files.values():
            file.flush()
        return SplitState(
            position=position,
            documents=self.files["rows"].length,
            tokens=self.files["tokens"].length,
            whole=self.files[_WHOLE].length,
            long=long.account(),
        )

    def __enter__(self) -> SplitWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self.files.values():
            file.close()


@dataclass(frozen=True)
class Tokenization:
    """Everything that the splits of a data set share when they are tokenised."""

    spool: Spool
    tokenizer: TextTokenizer
    encoder: Encoder
    max_length: int
    long: Literal["split", "truncate", "drop", "error"]
    row_name: Callable[[int], str]

    def write_split(
        self, folder: Path, order: NDArray[np.int64], repeats: NDArray[np.int32], progress: Progress
    ) -> LongCounts:
        """Tokenise the spooled rows `order`, each `repeats` times, into `folder`.

        Goes on from an earlier call that was cut short. progress: called with the number of rows just written.
        """
        path = folder.with_suffix(".json")
        state = read_state(path, SplitState) or SplitState()
        self._fitter.counts = LongCounts.of(state.long)
        position = state.position
        progress(position)
        with SplitWriter(folder, state) as writer, self._encoded(order[position:]) as encoded_batches:
            for number, (rows, encoded) in enumerate(encoded_batches, start=1):
                self._write(writer, rows, encoded, repeats[position : position + len(rows)])
                position += len(rows)
                progress(len(rows))
                if number % _SAVE_BATCHES == 0:
                    write_state(path, writer.state(position, self._fitter.counts))
            write_state(path, writer.state(position, self._fitter.counts))
        return self._fitter.counts

    def _encoded(self, order: NDArray[np.int64]) -> AbstractContextManager[Iterator[tuple[NDArray[np.int64], Encoded]]]:
        size = int((self.spool.ends[order] - self.spool.spans(order)[:, 0]).sum())
        vocabulary = self.tokenizer.backend.backend_tokenizer.to_str()
        return encoded_batches(self.spool, self.encoder, vocabulary, self._batches(order), num_workers(size))

    def _batches(self, order: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        begin, size = 0, 0
        for place, row in enumerate(order.tolist()):
            first, last = self.spool.span(row)
            size += last - first
            if size >= BATCH_CHARACTERS or place + 1 - begin >= BATCH_ROWS:
                yield order[begin : place + 1]
                begin, size = place + 1, 0
        if begin < len(order):
            yield order[begin:]

    def _write(
        self, writer: SplitWriter, rows: NDArray[np.int64], encoded: Encoded, repeats: NDArray[np.int32]
    ) -> None:
        """Append a batch: runs of documents that fit at once, the others one by one."""
        writer.files[_WHOLE].append(encoded.lengths)
        ends = np.concatenate([[0], np.cumsum(encoded.lengths)])
        fits = (encoded.lengths <= self.max_length) & (repeats == 1)
        borders = np.flatnonzero(np.diff(fits, prepend=~fits[:1], append=~fits[-1:]))
        for begin, end in pairwise(borders.tolist()):
            part = slice(int(ends[begin]), int(ends[end]))
            if fits[begin]:
                lengths = encoded.lengths[begin:end]
                self._write_whole(writer, rows[begin:end], lengths, encoded.tokens[part], encoded.supervised[part])
                continue
            for place in range(begin, end):
                part = slice(int(ends[place]), int(ends[place + 1]))
                tokens, supervised = encoded.tokens[part], encoded.supervised[part]
                self._write_document(writer, int(rows[place]), tokens, supervised, int(repeats[place]))

    def _write_whole(
        self,
        writer: SplitWriter,
        rows: NDArray[np.int64],
        lengths: NDArray[np.int64],
        tokens: NDArray[np.int32],
        supervised: NDArray[np.bool_],
    ) -> None:
        self._fitter.counts.num_documents += len(rows)
        writer.append(
            lengths=lengths,
            tokens=tokens,
            supervised=supervised,
            num_bytes=self.spool.target_bytes[rows],
            spans=self.spool.spans(rows).ravel(),
            rows=self.spool.rows[rows],
            file_of=self.spool.file_of[rows],
            slice_of=self.spool.slice_of[rows],
        )

    def _write_document(
        self, writer: SplitWriter, row: int, ids: NDArray[np.int32], supervised: NDArray[np.bool_], times: int
    ) -> None:
        """Append a document that is cut, or used `times` times."""
        pieces = self._fitter.fit(ids, supervised, self.row_name(row))
        whole = len(pieces) == 1 and len(pieces[0].ids) == len(ids)
        places = None if whole else self._places(row, ids)
        for piece in pieces * times:
            counted = self.spool.target_bytes[row] if whole else self._sizes[piece.ids[piece.supervised]].sum()
            writer.append(
                lengths=[len(piece.ids)],
                tokens=piece.ids,
                supervised=piece.supervised,
                num_bytes=[counted],
                spans=self.spool.spans(np.array([row]))[0] if places is None else _span(places, supervised, piece),
                rows=self.spool.rows[row : row + 1],
                file_of=self.spool.file_of[row : row + 1],
                slice_of=self.spool.slice_of[row : row + 1],
            )

    def _places(self, row: int, ids: NDArray[np.int32]) -> NDArray[np.int64]:
        """[length + 1] byte of the spooled text where each token of a row begins, and the last one ends."""
        begin, end = self.spool.span(row)
        places: NDArray[np.int64] = np.minimum(begin + np.concatenate([[0], np.cumsum(self._sizes[ids])]), end)
        return places

    @cached_property
    def _fitter(self) -> LongDocuments:
        return LongDocuments(self.long, self.max_length, self.tokenizer.backend)

    @property
    def _sizes(self) -> NDArray[np.int64]:
        return self._fitter.boundaries.sizes


def _span(places: NDArray[np.int64], supervised: NDArray[np.bool_], piece: Piece) -> NDArray[np.int64]:
    """Begin, first target and end of a part of a row."""
    first = piece.begin + int(np.argmax(supervised[piece.begin : piece.end]))
    return places[[piece.begin, first, piece.end]]
