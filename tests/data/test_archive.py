"""Zip archives: several members are several inputs; what is hidden, broken, locked or a trap is not read."""

from __future__ import annotations

import io
import random
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tunesmith.data import Data
from tunesmith.data.read import archive as module
from tunesmith.data.read.inputs import find_inputs
from tunesmith.errors import DataError
from tunesmith.recipe import DataSection

SECTION = DataSection(path="unused", text="text")
CSV = "text\n" + "".join(f"row {i} of it\n" for i in range(5))


def write_zip(path: Path, members: Mapping[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def names(path: Path) -> list[str]:
    return [found.name.removeprefix(f"{path.parent}/") for found in find_inputs(str(path), SECTION)]


def test_every_data_file_is_an_input_by_name(tmp_path: Path) -> None:
    members = {
        "b.csv": CSV,
        "part/": "",
        "part/a.jsonl": '{"text": "a b"}\n{"text": "c d"}\n',
        "__MACOSX/._b.csv": "junk",
        ".hidden.csv": CSV,
        "README.md": "about",
        "image.png": "x",
    }
    assert names(write_zip(tmp_path / "a.zip", members)) == ["a.zip/b.csv", "a.zip/part/a.jsonl"]


def test_members_hold_their_rows_and_are_called_by_them(prepared: Callable[..., Data], tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"x.csv": CSV, "y.csv": CSV.replace("row", "line")})
    data = prepared(path)
    assert len(data.train) + len(data.eval) == 10
    with pytest.raises(DataError, match=r"a\.zip/x\.csv: no column 'txt'"):
        prepared(path, text="txt")


def test_equal_members_have_equal_keys_in_any_archive(tmp_path: Path) -> None:
    one = write_zip(tmp_path / "one.zip", {"x.csv": CSV})
    two = write_zip(tmp_path / "two.zip", {"y.csv": CSV, "z.csv": CSV + "more\n"})
    plain = tmp_path / "plain.csv"
    plain.write_text(CSV)
    keys = [found.key for path in (one, two, plain) for found in find_inputs(str(path), SECTION)]
    assert keys[0] == keys[1] == keys[3] != keys[2]


def test_an_archive_in_a_folder_counts(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", {"x.csv": CSV})
    write_zip(tmp_path / "pictures.zip", {"x.png": "x", "y.png": "y"})
    (tmp_path / "b.csv").write_text(CSV)
    found = [Path(found.name).name for found in find_inputs(str(tmp_path), SECTION)]
    assert found == ["x.csv", "b.csv"]


def test_an_archive_without_data_is_said(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"x.png": "x", "y.png": "y"})
    with pytest.raises(DataError, match=r"a\.zip: the archive holds no file that can be read"):
        find_inputs(str(path), SECTION)


def test_an_encrypted_archive_is_said(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"x.csv": CSV})
    content = bytearray(path.read_bytes())
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.find(header) + flags] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.zip: is encrypted\. Unpack it"):
        find_inputs(str(path), SECTION)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAFE_BYTES", 1 << 20)
    path = write_zip(tmp_path / "a.zip", {"x.csv": b"0" * (4 << 20)})
    with pytest.raises(DataError, match=r"a\.zip: unpacks from .* more than 200 times as much"):
        find_inputs(str(path), SECTION)


def test_members_that_overlap_are_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"x.csv": random.Random(7).randbytes(10_000)})
    content = path.read_bytes()
    begin = content.find(b"PK\x01\x02")
    end = content.find(b"PK\x05\x06")
    entry = content[begin:end]
    many = 50
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, many, many, many * len(entry), begin, 0)
    path.write_bytes(content[:begin] + entry * many + tail)
    with pytest.raises(DataError, match=r"a\.zip: its members overlap"):
        find_inputs(str(path), SECTION)


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MEMBERS", 3)
    path = write_zip(tmp_path / "a.zip", {f"{i}.csv": CSV for i in range(4)})
    with pytest.raises(DataError, match="holds 4 files, more than 3"):
        find_inputs(str(path), SECTION)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and nothing", b"no zip at all"])
def test_what_is_no_archive_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.zip: is not a whole zip archive"):
        find_inputs(str(tmp_path / "a.zip"), SECTION)


def test_a_member_that_was_changed_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("x.csv", CSV)
    path.write_bytes(path.read_bytes().replace(b"row 3", b"row X", 1))
    with pytest.raises(DataError, match=r"a\.zip/x\.csv: the archive is cut short or damaged"):
        find_inputs(str(path), SECTION)


def test_a_method_that_python_does_not_know_is_said(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"x.csv": CSV})
    content = bytearray(path.read_bytes())
    for header, method in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        content[content.find(header) + method] = 9  # Deflate64
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.zip/x\.csv: cannot be unpacked"):
        find_inputs(str(path), SECTION)


def test_an_archive_inside_an_archive_is_not_opened(tmp_path: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("x.csv", CSV)
    path = write_zip(tmp_path / "a.zip", {"inner.zip": inner.getvalue(), "y.csv": CSV})
    assert names(path) == ["a.zip/y.csv"]
