"""Files as lines of text: compression, byte order marks, encodings, and where in the file a byte lies.

Nothing is guessed silently: without a byte order mark a file is UTF-8 until a byte says otherwise, and the message then
names that byte and the encoding that would read it.
"""

from __future__ import annotations

import bz2
import codecs
import difflib
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from tunesmith.data.read.archive import open_member
from tunesmith.errors import DataError

HEAD_BYTES = 1 << 16
MAX_LINE_BYTES = 1 << 28
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_MAGIC = {
    b"PK\x03\x04": "a zip archive or an Excel workbook (.xlsx)",
    b"\xd0\xcf\x11\xe0": "an old Excel or Word document",
    b"%PDF": "a PDF document",
    b"PAR1": "a Parquet file",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"SQLite format 3": "an SQLite database",
    b"\x80\x04\x95": "a Python pickle",
    b"GGUF": "a GGUF model",
    b"\x7fELF": "a program",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"7z\xbc\xaf": "a 7-Zip archive",
    b"ARROW1": "an Arrow file",
}
_COMMON_ENCODINGS = ("utf-8", "latin-1", "cp1252", "utf-16", "utf-16-le", "utf-16-be", "shift_jis", "gb18030", "big5")


@dataclass
class Tally:
    """What the last reader of a file counted. fallback_lines: those that only the second encoding reads."""

    fallback_lines: int = 0


@dataclass(frozen=True)
class InputFile:
    """A file to read. name: as messages show it; encoding: as the recipe asked for it (auto or a codec).

    path: where it, or its copy, lies on this machine; member: its name in the zip archive at `path`.
    fallback_encoding: of the lines that `encoding` cannot read, or None.
    """

    path: Path
    name: str
    encoding: str = "auto"
    fallback_encoding: str | None = None
    member: str | None = None
    tally: Tally = field(default_factory=Tally, compare=False, repr=False)

    def open(self) -> IO[bytes]:
        """The decompressed bytes. Raises DataError when the file cannot be opened."""
        raw = self.open_raw()
        with guard(self):
            magic = raw.read(6)
            raw.seek(0)
        if magic[:4] == b"\x28\xb5\x2f\xfd":
            import zstandard

            reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True, closefd=True)
            return io.BufferedReader(reader)
        if magic[:2] == b"\x1f\x8b":
            return _Unpacked(gzip.GzipFile(fileobj=raw), raw)
        if magic[:3] == b"BZh":
            return _Unpacked(bz2.BZ2File(raw), raw)
        if magic == b"\xfd7zXZ\x00":
            return _Unpacked(lzma.LZMAFile(raw), raw)
        return raw

    def open_raw(self) -> IO[bytes]:
        """The bytes as they lie on disk, or in the archive. Raises DataError when the file cannot be opened."""
        if self.member is not None:
            return open_member(self.path, self.member, self.name)
        try:
            return self.path.open("rb")
        except OSError as error:
            raise DataError(
                f"{self.name}: cannot be read ({error.strerror}). Check the path and its permissions."
            ) from None

    def head(self) -> bytes:
        """The first bytes, decompressed. Raises DataError when the file is empty or an archive is damaged."""
        with self.open() as stream, guard(self):
            head = stream.read(HEAD_BYTES)
        if not head:
            raise DataError(f"{self.name}: is empty (0 bytes). Expected rows of text; check how the file was written.")
        return head


class _Unpacked(io.BufferedReader):
    """A decompressor that ends its file with itself."""

    def __init__(self, decompressor: Any, packed: IO[bytes]) -> None:
        super().__init__(decompressor)
        self._packed = packed

    def close(self) -> None:
        super().close()
        self._packed.close()


class guard:
    """Turns the errors of damaged archives and disks into a DataError that names the file."""

    def __init__(self, file: InputFile) -> None:
        self.file = file

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is None:
            return
        kinds = EOFError | zlib.error | gzip.BadGzipFile | lzma.LZMAError | zipfile.BadZipFile
        damaged = isinstance(error, kinds) or type(error).__name__ == "ZstdError"
        damaged = damaged or (isinstance(error, OSError) and str(error) == "Invalid data stream")  # bz2
        if damaged:
            raise DataError(
                f"{self.file.name}: the archive is cut short or damaged ({error}). Copy or download it again, or "
                "unpack it yourself and give the unpacked file."
            ) from None
        if isinstance(error, OSError):
            raise DataError(f"{self.file.name}: reading failed ({error.strerror or error}).") from None


def find_encoding(file: InputFile, head: bytes) -> str:
    """The codec to read `file` with. Raises DataError for binary files and codecs that do not exist."""
    if file.fallback_encoding is not None:
        _known_codec("data.fallback_encoding", file.fallback_encoding)
    if file.encoding != "auto":
        return _known_codec("data.encoding", file.encoding)
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return encoding
    _refuse_binary(file, head)
    return "utf-8"


def _known_codec(key: str, encoding: str) -> str:
    try:
        name = codecs.lookup(encoding).name
    except LookupError:
        close = difflib.get_close_matches(encoding.lower(), _COMMON_ENCODINGS, n=1, cutoff=0.5)
        raise DataError(
            f"{key}: {encoding!r} is no encoding."
            + (f" Did you mean {close[0]}?" if close else f" Expected one such as {', '.join(_COMMON_ENCODINGS[:5])}.")
        ) from None
    return "utf-8-sig" if name == "utf-8" else name


def _refuse_binary(file: InputFile, head: bytes) -> None:
    for magic, what in _MAGIC.items():
        if head.startswith(magic):
            raise DataError(
                f"{file.name}: is {what}, not text. Expected csv, tsv, json, jsonl, parquet or txt; export the text "
                "first."
            )
    num_zeros = head.count(0)
    if num_zeros > len(head) // 4:
        order = "le" if head[1::2].count(0) > head[::2].count(0) else "be"
        raise DataError(
            f"{file.name}: every second byte is zero, so it looks like UTF-16 without a byte order mark. Set "
            f"data.encoding: utf-16-{order}."
        )
    if num_zeros > len(head) // 100:
        raise DataError(
            f"{file.name}: {num_zeros} of the first {len(head)} bytes are zero; this is a binary file, not text."
        )


@dataclass(frozen=True)
class Survey:
    """How the lines of a file can be read. num_utf8: those beyond ASCII that are UTF-8; num_other: those that are not.

    single_byte: the encoding that reads the others.
    """

    num_lines: int
    num_utf8: int
    num_other: int
    single_byte: str


def survey(file: InputFile) -> Survey:
    """Read a file once more for what can be said of its encoding as a whole. For messages only."""
    status = file.path.stat()
    return _survey(file, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=8)
def _survey(file: InputFile, *_: int) -> Survey:
    num_lines = num_utf8 = num_other = 0
    has_controls, is_cp1252 = False, True
    with file.open() as stream, guard(file):
        for line in _split_lines(stream, file):
            num_lines += 1
            if line.isascii():
                continue
            if _reads("utf-8", line):
                num_utf8 += 1
                continue
            num_other += 1
            has_controls = has_controls or any(0x80 <= byte <= 0x9F for byte in line)
            is_cp1252 = is_cp1252 and _reads("cp1252", line)
    return Survey(num_lines, num_utf8, num_other, "cp1252" if has_controls and is_cp1252 else "latin-1")


def _reads(encoding: str, line: bytes) -> bool:
    try:
        line.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


@dataclass(frozen=True)
class BadBytes:
    """Bytes that the encoding cannot read: where in the file and in its line they are, and why they cannot be read."""

    file: InputFile
    offset: int
    line: bytes
    place: int
    encoding: str
    reason: str

    def explain(self) -> str:
        """What was found and what to do, without the place in the file's rows. No advice garbles other lines."""
        codec = self.encoding.removesuffix("-sig")
        found = f"byte {self.offset} (0x{self.line[self.place]:02X}) is not {codec.upper()}"
        if "end of data" in self.reason and not self.line.endswith(b"\n"):
            return f"{found}: the file ends inside a character, so it was cut short. Copy or download it again"
        whole = survey(self.file)
        if whole.num_utf8 and whole.num_other:
            return self._explain_mixed(found, codec, whole)
        fits = "utf-8" if codec != "utf-8" and not whole.num_other else whole.single_byte
        return (
            f"{found}. Read as {fits} it says {self._shown(fits)!r}: if that is right, set encoding: {fits} "
            "(data.encoding)"
        )

    def _explain_mixed(self, found: str, codec: str, whole: Survey) -> str:
        """Of a file that was written in UTF-8 and edited by hand elsewhere: two encodings, each for its own lines."""
        fits = next((name for name in ("cp1252", "latin-1") if _reads(name, self.line)), "latin-1")
        num_good = whole.num_lines - whole.num_other
        others = "this line is" if whole.num_other == 1 else f"{whole.num_other:,} lines are"
        utf8 = "" if codec == "utf-8" else "encoding: utf-8 and "
        return (
            f"{found}; {num_good:,} of the file's {whole.num_lines:,} lines are UTF-8 and {others} not. Read as {fits} "
            f"it says {self._shown(fits)!r}: if that is right, set {utf8}fallback_encoding: {fits} "
            "(data.fallback_encoding), which reads only the lines that are not UTF-8; or leave such rows out with "
            f"data.max_bad_rows: {max(whole.num_other / whole.num_lines, 0.0001) * 1.1:.2g}"
        )

    def _shown(self, encoding: str) -> str:
        before, after = self.line[max(0, self.place - 20) : self.place], self.line[self.place : self.place + 20]
        return (before.decode(encoding, errors="replace") + after.decode(encoding, errors="replace")).strip()


@dataclass
class TextLines:
    """The lines of a text file, each with its newline; iterate over it once.

    A line whose bytes cannot be decoded is still given, with stand-ins, and its BadBytes are put into `bad` until the
    reader takes them: so a reader can name the row, leave it out, and go on.
    """

    file: InputFile
    encoding: str
    number: int = 0
    bad: BadBytes | None = field(default=None)

    def __iter__(self) -> Iterator[str]:
        self.file.tally.fallback_lines = 0
        with self.file.open() as stream, guard(self.file):
            if self.encoding.startswith(("utf-16", "utf-32", "utf-7")):
                yield from self._wide_lines(stream)
            else:
                yield from self._byte_lines(stream)

    def take_bad(self) -> BadBytes | None:
        bad, self.bad = self.bad, None
        return bad

    def _byte_lines(self, stream: IO[bytes]) -> Iterator[str]:
        offset = 0
        encoding = "utf-8" if self.encoding == "utf-8-sig" else self.encoding
        for line in _split_lines(stream, self.file):
            self.number += 1
            if offset == 0 and line.startswith(codecs.BOM_UTF8) and encoding == "utf-8":
                line, offset = line[3:], 3
            try:
                text = line.decode(encoding)
            except UnicodeDecodeError as error:
                second = self._by_fallback(line)
                if second is None and self.bad is None:
                    self.bad = BadBytes(self.file, offset + error.start, line, error.start, self.encoding, error.reason)
                text = line.decode(encoding, errors="surrogateescape") if second is None else second
            offset += len(line)
            yield text

    def _by_fallback(self, line: bytes) -> str | None:
        """The line by the second encoding, and counted; None where there is none or it cannot read it either."""
        if self.file.fallback_encoding is None or not _reads(self.file.fallback_encoding, line):
            return None
        self.file.tally.fallback_lines += 1
        return line.decode(self.file.fallback_encoding)

    def _wide_lines(self, stream: IO[bytes]) -> Iterator[str]:
        try:
            with io.TextIOWrapper(stream, encoding=self.encoding, newline="") as lines:
                for line in lines:
                    self.number += 1
                    yield line
        except UnicodeError as error:
            raise DataError(
                f"{self.file.name}:{self.number + 1}: after line {self.number} the file is not {self.encoding} "
                f"({getattr(error, 'reason', error)}). Set data.encoding to the one that it was written with."
            ) from None


def _split_lines(stream: IO[bytes], file: InputFile) -> Iterator[bytes]:
    r"""Lines that end in \n, or in \r where a file has no \n at its beginning (old Mac exports)."""
    head = stream.peek(HEAD_BYTES) if isinstance(stream, io.BufferedReader) else b""
    if b"\r" in head and b"\n" not in head:
        yield from _split_carriage_returns(stream)
        return
    while line := stream.readline(MAX_LINE_BYTES):
        if len(line) == MAX_LINE_BYTES:
            raise DataError(
                f"{file.name}: a line is longer than {MAX_LINE_BYTES >> 20} MiB. Expected a row a line; check the "
                "file's format."
            )
        yield line


def _split_carriage_returns(stream: IO[bytes]) -> Iterator[bytes]:
    rest = b""
    while chunk := stream.read(1 << 20):
        *lines, rest = (rest + chunk).split(b"\r")
        yield from (line + b"\n" for line in lines)
    if rest:
        yield rest
