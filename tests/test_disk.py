"""Files are whole or absent; a failed write says how much room there is and what to do."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from tunesmith.disk import disk_errors, finite, replace_directory, write_text
from tunesmith.errors import RunError


def test_a_text_is_private_and_without_secrets(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "key hf_abcdefghijklmnopqrstuvwxyz0123456789")
    text = (tmp_path / "a.txt").read_text(encoding="utf-8")
    assert "hf_abcdefg" not in text
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="links cannot be refused here")
def test_a_text_takes_the_place_of_a_link_and_leaves_its_target(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("theirs", encoding="utf-8")
    (tmp_path / "a.txt").symlink_to(tmp_path / "other")
    write_text(tmp_path / "a.txt", "ours")
    assert (tmp_path / "other").read_text(encoding="utf-8") == "theirs"
    assert not (tmp_path / "a.txt").is_symlink()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_says_how_much_is_free(tmp_path: Path, number: int) -> None:
    with (
        pytest.raises(
            RunError, match=r"a\.txt: the disk or a quota is full \([\d.]+ GB free .* Free some room\. Nothing"
        ),
        disk_errors(tmp_path / "missing" / "a.txt"),
    ):
        raise OSError(number, os.strerror(number))


def test_an_error_that_safetensors_wraps_is_one_of_the_disk(tmp_path: Path) -> None:
    with (
        pytest.raises(RunError, match=r"cannot be written \(Permission denied\)\. Choose another"),
        disk_errors(tmp_path / "a", "Choose another."),
    ):
        raise ValueError("I/O error: Permission denied (os error 13)")


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="of its own"), disk_errors(tmp_path):
        raise ValueError("of its own")


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with replace_directory(tmp_path / "model") as staging:
            (staging / "inner").mkdir()
            (staging / "inner" / "a.txt").write_text(text, encoding="utf-8")
    assert (tmp_path / "model" / "inner" / "a.txt").read_text(encoding="utf-8") == "second"
    assert stat.S_IMODE((tmp_path / "model" / "inner").stat().st_mode) == 0o700
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_stays_as_it_was_when_the_block_raises(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").touch()
    (tmp_path / ".model.killed.staging").mkdir()
    with pytest.raises(ZeroDivisionError), replace_directory(tmp_path / "model") as staging:
        (staging / "new").write_bytes(bytes(1 // 0))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["old"]


def test_json_holds_no_number_that_is_none() -> None:
    given = {"a": [1.5, float("nan"), (float("inf"), "x")], "b": {"c": -float("inf")}, "d": True}
    assert finite(given) == {"a": [1.5, None, [None, "x"]], "b": {"c": None}, "d": True}
