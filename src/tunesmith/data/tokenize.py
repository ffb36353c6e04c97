"""Rendered rows become token arrays: in batches, on every core, in bounded memory, going on where a kill stopped it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.cache import read_state, write_state
from tunesmith.data.documents import ARRAYS, ORIGIN_ARRAYS, ArrayFile
from tunesmith.data.long import LongCounts, LongDocuments, Piece, token_bytes
from tunesmith.data.rows import MARK, Pieces
from tunesmith.data.spool import Spool

if TYPE_CHECKING:
    from tunesmith.tokenizer import TextTokenizer

BATCH_ROWS = 2048
BATCH_CHARACTERS = 1 << 21
_SAVE_BATCHES = 32
_WHOLE = "whole_lengths"

Progress = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class Encoded:
    """The documents of a batch, before long ones are dealt with: tokens behind one another, with their mask."""

    tokens: NDArray[np.int32]
    supervised: NDArray[np.bool_]
    lengths: NDArray[np.int64]


class Encoder:
    """Rows to token ids. chat: the rows were rendered by a chat template, which writes control tokens itself."""

    def __init__(self, tokenizer: TextTokenizer, *, chat: bool) -> None:
        self.tokenizer = tokenizer
        self.chat = chat

    def encode(self, rows: Sequence[Pieces]) -> Encoded:
        """Ids and masks of a batch of rows."""
        if not self.chat and all(len(pieces) == 1 for pieces in rows):
            return self._encode_plain([pieces[0][0] for pieces in rows])
        documents = self._encode_pieces(rows) if self._is_additive else [self._encode_whole(row) for row in rows]
        tokens = np.fromiter(chain.from_iterable(ids for ids, _ in documents), dtype=np.int32)
        supervised = np.fromiter(chain.from_iterable(mask for _, mask in documents), dtype=np.bool_)
        return Encoded(tokens, supervised, np.array([len(ids) for ids, _ in documents], dtype=np.int64))

    def _encode_plain(self, texts: list[str]) -> Encoded:
        ids = self.tokenizer.encode_batch(texts)
        lengths = np.array([len(document) + 2 for document in ids], dtype=np.int64)
        ends = np.cumsum(lengths)
        tokens = np.empty(int(ends[-1]), dtype=np.int32)
        inner = np.ones(len(tokens), dtype=np.bool_)
        inner[ends - lengths] = inner[ends - 1] = False
        tokens[inner] = np.fromiter(chain.from_iterable(ids), dtype=np.int32, count=len(tokens) - 2 * len(ids))
        tokens[ends - lengths] = self.tokenizer.start_id
        tokens[ends - 1] = self.tokenizer.end_id
        supervised = np.ones(len(tokens), dtype=np.bool_)
        supervised[ends - lengths] = False
        return Encoded(tokens, supervised, lengths)

    def _encode_pieces(self, rows: Sequence[Pieces]) -> list[tuple[list[int], list[bool]]]:
        """Pieces encoded apart: what generation sees before it goes on from a prompt."""
        texts = [text for pieces in rows for text, _ in pieces]
        encoded = iter(self.tokenizer.encode_batch(texts, control_tokens=self.chat))
        documents = []
        for pieces in rows:
            ids: list[int] = []
            mask: list[bool] = []
            for _, flag in pieces:
                part = next(encoded)
                ids += part
                mask += [flag != 0] * len(part)
            documents.append(self._bounded(ids, mask, pieces))
        return documents

    def _encode_whole(self, pieces: Pieces) -> tuple[list[int], list[bool]]:
        """The row encoded at once and cut where its beginnings, encoded alone, end.

        For tokenizers that put a space before every text (SentencePiece), so that pieces encoded apart do not add up.
        """
        texts = [text for text, _ in pieces]
        starts = ["".join(texts[:number]) for number in range(1, len(texts) + 1)]
        encoded = self.tokenizer.encode_batch(starts, control_tokens=self.chat)
        ids = encoded[-1]
        mask: list[bool] = []
        for (_, flag), start in zip(pieces, encoded, strict=True):
            same = next((i for i, (a, b) in enumerate(zip(ids, start, strict=False)) if a != b), len(start))
            mask += [flag != 0] * (same - len(mask))
        return self._bounded(ids, mask, pieces)

    def _bounded(self, ids: list[int], mask: list[bool], pieces: Pieces) -> tuple[list[int], list[bool]]:
        """With start and end; a chat template has its own start, and ends with the last turn."""
        if not self.chat or (mask and mask[0]):
            ids, mask = [self.tokenizer.start_id, *ids], [False, *mask]
        if pieces[-1][1] != MARK:
            ids, mask = [*ids, self.tokenizer.end_id], [*mask, True]
        return ids, mask

    @cached_property
    def _is_additive(self) -> bool:
        first, second = self.tokenizer.encode_batch(["a\n", "b"])
        return self.tokenizer.decode(first + second) == "a\nb"


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
        fitter = LongDocuments(self.long, self.max_length, self.encoder.tokenizer.backend)
        fitter.counts = LongCounts(**state["long"])
        position = state["position"]
        batches = self._batches(order[position:])
        with SplitWriter(folder, state) as writer:
            for number, (rows, encoded) in enumerate(_ahead(batches, self._encode), start=1):
                self._write(writer, fitter, rows, encoded, repeats[position : position + len(rows)])
                position += len(rows)
                progress(len(encoded.tokens))
                if number % _SAVE_BATCHES == 0:
                    write_state(path, writer.state(position, fitter.counts))
            write_state(path, writer.state(position, fitter.counts))
        return fitter.counts

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

    def _encode(self, rows: NDArray[np.int64]) -> Encoded:
        return self.encoder.encode([self.spool.pieces(row) for row in rows.tolist()])

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
        backend = self.encoder.tokenizer.backend
        sizes = np.array([len(name) for name in token_bytes(backend.convert_ids_to_tokens(list(range(len(backend)))))])
        sizes[list(backend.all_special_ids)] = 0
        return sizes


def _ahead(
    batches: Iterator[NDArray[np.int64]], encode: Callable[[NDArray[np.int64]], Encoded]
) -> Iterator[tuple[NDArray[np.int64], Encoded]]:
    """Each batch with its encoding; the next is encoded while the caller writes. `tokenizers` lets go of the lock."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting: list[tuple[NDArray[np.int64], Any]] = []
        for batch in batches:
            waiting.append((batch, pool.submit(encode, batch)))
            if len(waiting) == 2:
                rows, future = waiting.pop(0)
                yield rows, future.result()
        for rows, future in waiting:
            yield rows, future.result()
