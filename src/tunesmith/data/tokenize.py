"""Rendered rows become token arrays: in batches, on every core, in bounded memory, going on where a kill stopped it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.cache import read_state, write_state
from tunesmith.data.documents import ARRAYS, ORIGIN_ARRAYS, ArrayFile
from tunesmith.data.encode import Encoded, Encoder
from tunesmith.data.encode_workers import encoded_batches, num_workers
from tunesmith.data.long import LongCounts, LongDocuments, Piece, vocabulary_bytes
from tunesmith.data.spool import Spool

if TYPE_CHECKING:
    from tunesmith.tokenizer import TextTokenizer

BATCH_ROWS = 2048
BATCH_CHARACTERS = 1 << 21
_SAVE_BATCHES = 32
_WHOLE = "whole_lengths"

Progress = Callable[[int], None]


class SplitWriter:
    """The arrays of one split on disk. Opening it again keeps what `state` counts and cuts off what came after."""

    def __init__(self, folder: Path, state: dict[str, Any]) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self.folder = folder
        documents, tokens = state["documents"], state["tokens"]
        kept = dict.fromkeys((*ARRAYS, *ORIGIN_ARRAYS), documents) | {
            "tokens": tokens,
            "supervised": tokens,
            "offsets": documents + 1 if documents else 0,
            "spans": 3 * documents,
            _WHOLE: state["whole"],
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

    def state(self, position: int, long: LongCounts) -> dict[str, Any]:
        """What a later process needs to go on from here."""
        for file in self.files.values():
            file.flush()
        return {
            "position": position,
            "documents": self.files["rows"].length,
            "tokens": self.files["tokens"].length,
            "whole": self.files[_WHOLE].length,
            "long": long.to_json(),
        }

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

        Goes on from an earlier call that was cut short. progress: called with the number of tokens just written.
        """
        path = folder.with_suffix(".json")
        state = read_state(path) or {"position": 0, "documents": 0, "tokens": 0, "whole": 0, "long": {}}
        fitter = LongDocuments(self.long, self.max_length, self.tokenizer.backend)
        fitter.counts = LongCounts(**state["long"])
        position = state["position"]
        with SplitWriter(folder, state) as writer, self._encoded(order[position:]) as encoded_batches:
            for number, (rows, encoded) in enumerate(encoded_batches, start=1):
                self._write(writer, fitter, rows, encoded, repeats[position : position + len(rows)])
                position += len(rows)
                progress(len(encoded.tokens))
                if number % _SAVE_BATCHES == 0:
                    write_state(path, writer.state(position, fitter.counts))
            write_state(path, writer.state(position, fitter.counts))
        return fitter.counts

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
        self,
        writer: SplitWriter,
        fitter: LongDocuments,
        rows: NDArray[np.int64],
        encoded: Encoded,
        repeats: NDArray[np.int32],
    ) -> None:
        writer.files[_WHOLE].append(encoded.lengths)
        if encoded.lengths.max(initial=0) <= self.max_length and (repeats == 1).all():
            fitter.counts.num_documents += len(rows)
            writer.append(
                lengths=encoded.lengths,
                tokens=encoded.tokens,
                supervised=encoded.supervised,
                num_bytes=self.spool.target_bytes[rows],
                spans=self.spool.spans(rows).ravel(),
                rows=self.spool.rows[rows],
                file_of=self.spool.file_of[rows],
                slice_of=self.spool.slice_of[rows],
            )
            return
        ends = np.cumsum(encoded.lengths)
        for row, length, end, times in zip(
            rows.tolist(), encoded.lengths.tolist(), ends.tolist(), repeats.tolist(), strict=True
        ):
            part = slice(end - length, end)
            self._write_document(writer, fitter, row, encoded.tokens[part], encoded.supervised[part], times)

    def _write_document(
        self,
        writer: SplitWriter,
        fitter: LongDocuments,
        row: int,
        ids: NDArray[np.int32],
        supervised: NDArray[np.bool_],
        times: int,
    ) -> None:
        pieces = fitter.fit(ids, supervised, self.row_name(row))
        whole = len(pieces) == 1 and len(pieces[0].ids) == len(ids)
        for piece in pieces * times:
            span = self._part_span(row, ids, supervised, None if whole else piece)
            counted = self.spool.target_bytes[row] if whole else self._token_sizes[piece.ids[piece.supervised]].sum()
            writer.append(
                lengths=[len(piece.ids)],
                tokens=piece.ids,
                supervised=piece.supervised,
                num_bytes=[counted],
                spans=span,
                rows=self.spool.rows[row : row + 1],
                file_of=self.spool.file_of[row : row + 1],
                slice_of=self.spool.slice_of[row : row + 1],
            )

    def _part_span(
        self, row: int, ids: NDArray[np.int32], supervised: NDArray[np.bool_], piece: Piece | None
    ) -> NDArray[np.int64]:
        """Begin, first target and end of a part of a row, counted in the bytes that its tokens stand for."""
        whole: NDArray[np.int64] = self.spool.spans(np.array([row]))[0]
        if piece is None:
            return whole
        places = whole[0] + np.concatenate([[0], np.cumsum(self._token_sizes[ids])])
        first = piece.begin + int(np.argmax(supervised[piece.begin : piece.end]))
        part: NDArray[np.int64] = np.minimum(places[[piece.begin, first, piece.end]], whole[2])
        return part

    @cached_property
    def _token_sizes(self) -> NDArray[np.int64]:
        """Bytes of text that each id stands for; none for control tokens."""
        backend = self.tokenizer.backend
        sizes = np.array([len(entry) for entry in vocabulary_bytes(backend)])
        sizes[list(backend.all_special_ids)] = 0
        return sizes
