"""The rehearsal takes the room of a checkpoint and gives it back."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tunesmith.errors import RunError
from tunesmith.run.directory import RunDir
from tunesmith.training.rehearsal import _rehearse_disk


@pytest.fixture
def trainer(tmp_path: Path) -> Any:
    return SimpleNamespace(run_dir=RunDir.create(tmp_path / "run"), checkpoint_bytes=lambda: 5_000_000)


def fail_with(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", fail)


def test_the_room_is_given_back(trainer: Any) -> None:
    _rehearse_disk(trainer)
    assert list(trainer.run_dir.path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_room_is_refused(trainer: Any, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    fail_with(number, monkeypatch)
    with pytest.raises(RunError, match="a checkpoint needs 5 MB, which the disk does not give"):
        _rehearse_disk(trainer)
    assert list(trainer.run_dir.path.iterdir()) == []


def test_a_file_system_that_cannot_reserve_room_is_no_reason_to_refuse(
    trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(errno.EINVAL, monkeypatch)
    _rehearse_disk(trainer)
    assert list(trainer.run_dir.path.iterdir()) == []
