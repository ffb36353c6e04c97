"""Parquet, read a batch of rows at a time. Rows are called by their place in the file, from 1."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import IO, Any

from tunesmith.data.read.bytes import InputFile, guard
from tunesmith.data.read.table import About, Rows, Table
from tunesmith.errors import DataError

BATCH_ROWS = 1024
_COPY_BYTES = 1 << 20


def open_parquet(file: InputFile) -> Table:
    """The table in `file`. Raises DataError when it is no Parquet file, is cut short, or has no rows."""
    with _open(file) as parquet:
        num_rows, columns = parquet.metadata.num_rows, tuple(parquet.schema_arrow.names)
    if num_rows == 0:
        raise DataError(f"{file.name}: holds no rows. Expected at least two rows of text.")
    return Table(
        name=file.name,
        kind="parquet",
        columns=columns,
        read=lambda columns: _rows(file, columns),
        about=About("utf-8"),
    )


@contextmanager
def _open(file: InputFile) -> Iterator[Any]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with _seekable(file) as stream, ParquetFile(stream, pre_buffer=False) as parquet:
            yield parquet
    except pyarrow.ArrowException as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise DataError(
            f"{file.name}: is not a whole Parquet file ({reason}). Copy or download it again; if it is another "
            "format, say which with data.format."
        ) from None


def _seekable(file: InputFile) -> IO[bytes]:
    """The file, or its unpacked copy in a temporary file: Parquet is read from its end."""
    raw = file.open_raw()
    is_plain = raw.read(4) == b"PAR1"
    raw.seek(0)
    if is_plain:
        return raw
    raw.close()
    copy = tempfile.TemporaryFile()  # noqa: SIM115  (the reader closes it)
    with file.open() as stream, guard(file):
        while chunk := stream.read(_COPY_BYTES):
            copy.write(chunk)
    copy.seek(0)
    return copy


def _rows(file: InputFile, columns: Collection[str] | None) -> Rows:
    row = 0
    wanted = None if columns is None else list(columns)
    with _open(file) as parquet:
        batches = parquet.iter_batches(batch_size=BATCH_ROWS, columns=wanted)
        while (batch := _next_batch(batches, file, row)) is not None:
            for values in batch.to_pylist():
                yield row, values
                row += 1


def _next_batch(batches: Iterator[Any], file: InputFile, row: int) -> Any:
    import pyarrow

    try:
        return next(batches, None)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise DataError(
            f"{file.name}:{row + 1}: the Parquet file is damaged from here on ({reason}). Copy or download it again."
        ) from None
