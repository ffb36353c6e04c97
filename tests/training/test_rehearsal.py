"""The rehearsal takes the room of a checkpoint and gives it back."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tunesmith.errors import RunError
from tunesmith.training.rehearsal import rehearse_disk

NUM_BYTES = 5_000_000


def fail_with(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", fail)


def test_the_room_is_given_back(tmp_path: Path) -> None:
    rehearse_disk(tmp_path, NUM_BYTES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_room_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    fail_with(number, monkeypatch)
    with pytest.raises(RunError, match="a checkpoint needs 5 MB, which the disk does not give"):
        rehearse_disk(tmp_path, NUM_BYTES)
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_that_cannot_reserve_room_is_no_reason_to_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(errno.EINVAL, monkeypatch)
    rehearse_disk(tmp_path, NUM_BYTES)
    assert list(tmp_path.iterdir()) == []
