"""Rendered rows on disk, between reading and tokenising: reading happens once, in one pass, whatever the size.

Text lies in one memory-mapped array of UTF-8 bytes; everything else is a number a row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.arrays import ArrayFile, load_array, release
from tunesmith.data.rows.pieces import TARGET, Pieces
from tunesmith.data.rows.template import RowProblem
from tunesmith.data.split.beginnings import shared_beginnings

COLUMNS = {
    "hashes": np.uint64,
    "groups": np.uint64,
    "strata": np.int32,
    "given": np.int8,
    "slice_of": np.int32,
    "file_of": np.int32,
    "rows": np.int64,
    "num_pieces": np.int32,
    "ends": np.int64,
    "target_at": np.int64,
    "target_bytes": np.int64,
}
_FLUSH_ROWS = 4096
RELEASE_BYTES = 1 << 26


def hash_text(text: bytes) -> int:
    """64 bits of BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


class SpoolWriter:
    """Appends rendered rows: their text to text.npy in a folder, everything else to arrays in its folder rows/."""

    def __init__(self, folder: Path) -> None:
        rows = folder / "rows"
        rows.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.text = ArrayFile(folder / "text.npy", np.uint8)
        self.piece_ends = ArrayFile(rows / "piece_ends.npy", np.int64)
        self.piece_flags = ArrayFile(rows / "piece_flags.npy", np.uint8)
        self.columns = {name: ArrayFile(rows / f"{name}.npy", dtype) for name, dtype in COLUMNS.items()}
        self.pending: list[tuple[int, ...]] = []
        self.pending_ends: list[int] = []
        self.pending_flags: list[int] = []
        self.pending_text: list[bytes] = []
        self.place = 0
        self.num_rows = 0

    def add(
        self, pieces: Pieces, *, file: int, row: int, group: int, stratum: int, given: int, slice_code: int
    ) -> None:
        """Append one row. Raises RowProblem when its text cannot be stored as UTF-8."""
        encoded = [_encode(text) for text, _ in pieces]
        target_at, target_bytes = -1, 0
        for data, (_, flag) in zip(encoded, pieces, strict=True):
            if flag and target_at < 0:
                target_at = self.place
            if flag == TARGET:
                target_bytes += len(data)
            self.place += len(data)
            self.pending_ends.append(self.place)
            self.pending_flags.append(flag)
        self.pending_text += encoded
        content = hash_text(b"\x1f".join(encoded).strip())
        place = (len(pieces), self.place, target_at, target_bytes)
        self.pending.append((content, group, stratum, given, slice_code, file, row, *place))
        self.num_rows += 1
        if len(self.pending) >= _FLUSH_ROWS:
            self._flush()

    def __enter__(self) -> SpoolWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        for file in (self.text, self.piece_ends, self.piece_flags, *self.columns.values()):
            file.close()

    def _flush(self) -> None:
        self.text.append(np.frombuffer(b"".join(self.pending_text), dtype=np.uint8))
        self.piece_ends.append(self.pending_ends)
        self.piece_flags.append(self.pending_flags)
        for name, values in zip(COLUMNS, zip(*self.pending, strict=True), strict=bool(self.pending)):
            self.columns[name].append(np.array(values, dtype=COLUMNS[name]))
        self.pending, self.pending_ends, self.pending_flags, self.pending_text = [], [], [], []


def _encode(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowProblem(
            f"the text holds half a character (U+{ord(text[error.start]):04X} at character {error.start + 1}), as "
            "exports that cut text at a fixed length do. Export the row again."
        ) from None


class Spool:
    """The rows that a SpoolWriter wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rows = folder / "rows"
        self.text = load_array(folder / "text.npy")
        self.num_read = 0
        self.piece_ends = load_array(rows / "piece_ends.npy")
        self.piece_flags = load_array(rows / "piece_flags.npy")
        columns = {name: load_array(rows / f"{name}.npy") for name in COLUMNS}
        self.hashes: NDArray[np.uint64] = columns["hashes"]
        self.groups: NDArray[np.uint64] = columns["groups"]
        self.strata: NDArray[np.int32] = columns["strata"]
        self.given: NDArray[np.int8] = columns["given"]
        self.slice_of: NDArray[np.int32] = columns["slice_of"]
        self.file_of: NDArray[np.int32] = columns["file_of"]
        self.rows: NDArray[np.int64] = columns["rows"]
        self.ends: NDArray[np.int64] = columns["ends"]
        self.target_at: NDArray[np.int64] = columns["target_at"]
        self.target_bytes: NDArray[np.int64] = columns["target_bytes"]
        self.first_piece = np.concatenate([[0], np.cumsum(columns["num_pieces"], dtype=np.int64)])

    def __len__(self) -> int:
        return len(self.hashes)

    def comparable(self, rows: NDArray[np.int64]) -> Sequence[str]:
        """The texts of some rows without the beginnings that many of them share; they stay on disk."""
        spans = self.spans(rows)
        begins = spans[:, 0] + shared_beginnings(self.text, spans[:, 0], spans[:, 2])
        return _Texts(self, begins, spans[:, 2])

    def read(self, begin: int, end: int) -> bytes:
        """Bytes of the text; no more than RELEASE_BYTES of what was read stay in memory."""
        self.num_read += end - begin
        if self.num_read > RELEASE_BYTES:
            release(self.text)
            self.num_read = 0
        return self.text[begin:end].tobytes()

    def span(self, index: int) -> tuple[int, int]:
        """First and last byte of a row in `text`."""
        return int(self.ends[index - 1]) if index else 0, int(self.ends[index])

    def spans(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """[len(rows), 3] bytes of `text` where each row begins, where its first target lies, and where it ends."""
        begins = np.where(rows > 0, self.ends[rows - 1], 0)
        return np.stack([begins, self.target_at[rows], self.ends[rows]], axis=1)

    def pieces(self, index: int) -> Pieces:
        """The pieces of a row, as rows.py rendered them."""
        begin, _ = self.span(index)
        pieces = []
        for piece in range(int(self.first_piece[index]), int(self.first_piece[index + 1])):
            end = int(self.piece_ends[piece])
            pieces.append((self.read(begin, end).decode("utf-8"), int(self.piece_flags[piece])))
            begin = end
        return pieces


class _Texts(Sequence[str]):
    def __init__(self, spool: Spool, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
        self.spool = spool
        self.begins = begins
        self.ends = ends

    def __len__(self) -> int:
        return len(self.begins)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return _Texts(self.spool, self.begins[index], self.ends[index])
        return self.spool.read(int(self.begins[index]), int(self.ends[index])).decode("utf-8", errors="ignore")
