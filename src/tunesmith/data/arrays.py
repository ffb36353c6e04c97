"""One-dimensional .npy files: written as they grow, read as maps that cost no memory while nobody looks at them."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

PASS_ITEMS = 1 << 24


class ArrayFile:
    """A one-dimensional .npy file that grows: numpy leaves room in the header for the final length."""

    def __init__(self, path: Path, dtype: Any, length: int = 0) -> None:
        """Open `path` for appending and keep its first `length` items."""
        self.dtype = np.dtype(dtype)
        self.length = length
        if not path.exists():
            path.touch()
        self.file = path.open("r+b")
        self._write_header()
        self.start = self.file.tell()
        self.file.truncate(self.start + length * self.dtype.itemsize)
        self.file.seek(0, 2)

    def append(self, values: Any) -> None:
        array = np.ascontiguousarray(values, dtype=self.dtype)
        self.file.write(array.data)
        self.length += array.size

    def flush(self) -> None:
        """Give what was appended to the operating system, which keeps it when this process dies."""
        self.file.flush()

    def close(self) -> None:
        self.file.seek(0)
        self._write_header()
        self.file.close()

    def _write_header(self) -> None:
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.length,)}
        npy.write_array_header_1_0(self.file, header)


def load_array(path: Path) -> NDArray[Any]:
    """A memory-mapped array that ArrayFile wrote, as a plain view without the cost of np.memmap's slicing."""
    array: NDArray[Any] = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    return array


def release(array: NDArray[Any]) -> None:
    """Let go of the memory that a mapped array takes; what is read again comes from the file again."""
    base: Any = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = getattr(base, "base", None)
    if base is not None and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def passes(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """A mapped array a part at a time, each let go of before the next."""
    for begin in range(0, len(array), PASS_ITEMS):
        yield array[begin : begin + PASS_ITEMS]
        release(array)
