"""One process at a time in a part of the cache, and a message where that cannot be had."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from filelock import FileLock

from tunesmith import cache as module
from tunesmith.cache import cache_dir, cache_lock
from tunesmith.errors import RunError


def other_process_is_kept_out(path: Path) -> bool:
    child = os.fork()
    if child == 0:
        try:
            FileLock(path, timeout=0).acquire()
        except TimeoutError:
            os._exit(0)
        os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "made" / "part.lock"
    with cache_lock(path):
        assert other_process_is_kept_out(path)
    assert not other_process_is_kept_out(path)


def test_a_process_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "part.lock"
    signs = iter([1, 2, 3, 3])
    hangs = pytest.raises(RunError, match="another process works there, and has written nothing for")
    with FileLock(path), hangs, cache_lock(path, signs=lambda: next(signs), patience=1e-3):
        raise AssertionError
    assert next(signs, None) is None  # as long as there were signs it was waited for


def test_an_error_ends_the_hold(tmp_path: Path) -> None:
    path = tmp_path / "part.lock"
    with pytest.raises(ZeroDivisionError), cache_lock(path):
        _ = 1 / 0
    assert not other_process_is_kept_out(path)


def test_a_cache_that_cannot_be_locked_may_lie_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoLocks(FileLock):
        def acquire(self, *args: object, **kwargs: object) -> None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(module, "FileLock", NoLocks)
    message = r"part\.lock: cannot be written \(No locks available\).*XDG_CACHE_HOME"
    with pytest.raises(RunError, match=message), cache_lock(tmp_path / "part.lock"):
        raise AssertionError


def test_the_cache_is_private_and_may_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert cache_dir() == tmp_path / "elsewhere" / "tunesmith"
    assert cache_dir().stat().st_mode & 0o777 == 0o700
