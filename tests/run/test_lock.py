"""One writer a run; the lock of a process that is gone does not stop the next one."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tunesmith.errors import RunError
from tunesmith.run import lock as module
from tunesmith.run.directory import RunDir
from tunesmith.run.lock import RunLock, process_start, read_lock, writer_of


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


@pytest.fixture
def fork() -> Iterator[Callable[[Callable[[], object]], int]]:
    """Run work in a child that then waits; the child is ended with the test."""
    children = []

    def start(work: Callable[[], object]) -> int:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                work()
                os.write(writer, b"ok")
            except BaseException as error:
                os.write(writer, repr(error).encode())
            signal.pause()
        os.close(writer)
        assert os.read(reader, 1000) == b"ok"
        os.close(reader)
        children.append(child)
        return child

    yield start
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def hold(run_dir: RunDir) -> None:
    RunLock(run_dir).__enter__()


def is_held(run_dir: RunDir) -> bool:
    return writer_of(run_dir) in ("alive", "unseen")


def change(run_dir: RunDir, **values: object) -> None:
    lock = json.loads(run_dir.file("lock").read_text()) | values
    run_dir.file("lock").write_text(json.dumps(lock))


def test_the_lock_says_who_and_goes_with_the_context(run_dir: RunDir) -> None:
    with RunLock(run_dir):
        lock = read_lock(run_dir)
        assert lock is not None
        assert (lock.pid, lock.start) == (os.getpid(), process_start(os.getpid()))
        assert stat.S_IMODE(run_dir.file("lock").stat().st_mode) == 0o600
        assert is_held(run_dir)
    assert not run_dir.has("lock")
    assert not is_held(run_dir)


def test_a_second_writer_is_told_who_the_first_is(run_dir: RunDir, fork: Callable[..., int]) -> None:
    child = fork(lambda: hold(run_dir))
    with pytest.raises(RunError, match=rf"written by process {child} on .*, started 20.*`kill {child}`"):
        RunLock(run_dir).__enter__()
    assert read_lock(run_dir).pid == child


def test_a_name_that_is_not_utf8_does_not_make_a_lock_unreadable(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["tunesmith", "train", os.fsdecode(b"caf\xe9.yaml")])
    with RunLock(run_dir):
        assert is_held(run_dir)
        assert "caf?.yaml" in read_lock(run_dir).command


def test_the_same_process_cannot_hold_it_twice(run_dir: RunDir) -> None:
    with RunLock(run_dir), pytest.raises(RunError, match="written by process"):
        RunLock(run_dir).__enter__()
    assert not run_dir.has("lock")


def test_the_lock_of_a_dead_process_is_taken_over_with_a_note(run_dir: RunDir) -> None:
    child = os.fork()
    if child == 0:
        hold(run_dir)
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert process_start(child) is None  # it has ended, though nobody has asked for its status
    os.waitpid(child, 0)
    notes: list[str] = []
    with RunLock(run_dir, notes.append):
        assert read_lock(run_dir).pid == os.getpid()
    assert len(notes) == 1
    assert f"taken over from process {child}" in notes[0]


def test_a_process_id_that_was_used_again_is_not_the_writer(run_dir: RunDir, fork: Callable[..., int]) -> None:
    fork(lambda: hold(run_dir))
    change(run_dir, start="1")
    assert not is_held(run_dir)
    notes: list[str] = []
    with RunLock(run_dir, notes.append):
        assert len(notes) == 1


def test_a_lock_from_before_a_reboot_is_stale(run_dir: RunDir, fork: Callable[..., int]) -> None:
    fork(lambda: hold(run_dir))
    change(run_dir, boot="another")
    with RunLock(run_dir):
        pass


@pytest.mark.parametrize("where", [{"host": "gpu-7"}, {"space": "pid:[1]"}])
def test_a_writer_that_cannot_be_seen_is_respected(run_dir: RunDir, fork: Callable[..., int], where: dict) -> None:
    fork(lambda: hold(run_dir))
    change(run_dir, pid=999_999_999, **where)
    assert is_held(run_dir)
    with pytest.raises(RunError, match=r"cannot be seen from .* If it has ended, delete .*lock"):
        RunLock(run_dir).__enter__()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": "x"}', b"\xff" * 100, b"\x80\x04\x95"])
def test_a_lock_that_was_cut_short_is_taken_over(run_dir: RunDir, content: bytes) -> None:
    run_dir.file("lock").write_bytes(content)
    notes: list[str] = []
    with RunLock(run_dir, notes.append):
        assert "before it had signed it" in notes[0]


def test_a_link_is_not_followed(run_dir: RunDir, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    run_dir.file("lock").symlink_to(victim)
    with pytest.raises(RunError, match="is not a lock file"):
        RunLock(run_dir).__enter__()
    assert victim.read_text() == "mine"


def test_a_forked_child_does_not_end_its_parents_lock(run_dir: RunDir) -> None:
    with RunLock(run_dir) as lock:
        child = os.fork()
        if child == 0:
            lock.__exit__(None, None, None)
            os._exit(0)
        os.waitpid(child, 0)
        assert is_held(run_dir)


def test_of_many_that_find_a_stale_lock_one_wins(run_dir: RunDir) -> None:
    for _ in range(5):
        run_dir.file("lock").write_text("")
        start_reader, start_writer = os.pipe()
        won_reader, won_writer = os.pipe()
        children = []
        for _ in range(4):
            child = os.fork()
            if child == 0:
                os.close(start_writer)
                os.read(start_reader, 1)  # all begin when the last writer of this pipe closes
                try:
                    hold(run_dir)
                    os.write(won_writer, b"1")
                    signal.pause()
                finally:
                    os.write(won_writer, b"0")
                    os._exit(0)
            children.append(child)
        os.close(start_reader)
        os.close(start_writer)
        results = b""
        while len(results) < 4:
            results += os.read(won_reader, 4)
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        os.close(won_reader)
        os.close(won_writer)
        assert results.count(b"1") == 1


def test_a_secret_on_the_command_line_is_not_in_the_lock(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "hf_" + "a" * 34
    monkeypatch.setattr(module.sys, "argv", ["tunesmith", "train", f"--token={secret}"])
    with RunLock(run_dir):
        assert secret not in run_dir.file("lock").read_text()


def test_the_guard_leaves_nothing_and_a_left_one_is_no_hindrance(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "run")
    run_dir.path.mkdir()
    left = run_dir.file(module.GUARD)
    left.write_text("")
    assert RunDir.create(run_dir.path).path == run_dir.path  # a killed writer's guard is not somebody's file
    run_dir.remove_leftovers()
    assert not left.exists()
    with RunLock(run_dir):
        assert [path.name for path in run_dir.path.iterdir()] == ["lock"]
    assert list(run_dir.path.iterdir()) == []


def test_a_file_system_without_locks_still_has_one_writer(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch, fork: Callable[..., int]
) -> None:
    class NoLocks(module.FileLock):
        def acquire(self, *args: object, **kwargs: object) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(module, "FileLock", NoLocks)
    child = fork(lambda: hold(run_dir))
    with pytest.raises(RunError, match=f"written by process {child}"):
        RunLock(run_dir).__enter__()


def test_the_guard_keeps_others_out(run_dir: RunDir) -> None:
    with module._guard(run_dir.path):
        child = os.fork()
        if child == 0:
            try:
                module.FileLock(run_dir.file(module.GUARD), timeout=0).acquire()
            except TimeoutError:
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
