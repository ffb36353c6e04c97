"""A checkpoint is whole or not there, whatever happens to the process, the disk or the files."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import stat
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tunesmith.errors import RunError
from tunesmith.training.checkpoints import checkpoint as module
from tunesmith.training.checkpoints.checkpoint import checkpoint_steps, newest_valid_checkpoint, save_checkpoint

FILES = ("model.safetensors", "optimizer.safetensors", "deep/rng.safetensors")


def write_for(step: int) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "deep").mkdir()
        for name in FILES:
            (folder / name).write_bytes(f"{name} of step {step}".encode() * 50)

    return write


def save(root: Path, step: int, keep: int = 2, best_step: int | None = None) -> Path:
    return save_checkpoint(root, step, write_for(step), info={"seed": step}, keep=keep, best_step=best_step)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fsync adds, order after a power cut, cannot be seen from here; that it is called is seen below."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


def test_files_then_folders_then_the_parent_are_synced(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
    )
    save(root, 5)
    names = [Path(path).relative_to(root).as_posix().partition("/")[2] for path in synced]
    assert sorted(names[:3]) == sorted(FILES)
    assert names[3:] == ["MANIFEST.json", "deep", "", ""]
    assert synced[-1] == str(root)


def test_a_save_holds_what_was_written_and_a_manifest_that_sha256sum_agrees_with(root: Path) -> None:
    path = save(root, 5)
    manifest = json.loads((path / "MANIFEST.json").read_text())
    assert sorted(manifest["files"]) == sorted(FILES)
    for name, entry in manifest["files"].items():
        data = (path / name).read_bytes()
        assert entry == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    checkpoint, problems = newest_valid_checkpoint(root)
    assert checkpoint is not None
    assert (checkpoint.path, checkpoint.step, checkpoint.info, problems) == (path, 5, {"seed": 5}, [])
    assert checkpoint.file("deep/rng.safetensors") == path / "deep/rng.safetensors"


def test_folders_and_files_are_private(root: Path) -> None:
    path = save(root, 5)
    modes = {entry: stat.S_IMODE(entry.stat().st_mode) for entry in (root, path, *path.glob("*"))}
    assert {mode for entry, mode in modes.items() if entry.is_file()} == {0o600}
    assert (modes[root], modes[path]) == (0o700, 0o700)


def test_a_file_that_the_manifest_does_not_list_is_never_given_out(root: Path) -> None:
    path = save(root, 5)
    (path / "training_args.bin").write_bytes(b"a pickle")
    checkpoint, _ = newest_valid_checkpoint(root)
    assert checkpoint is not None
    with pytest.raises(RunError, match=r"holds no training_args\.bin"):
        checkpoint.file("training_args.bin")


def test_a_file_among_shards_that_the_manifest_does_not_list_is_refused(root: Path) -> None:
    """A folder of shards is read whole."""
    save(root, 5)
    path = save(root, 10)
    (path / "deep" / "more.safetensors").write_bytes(b"another share")
    checkpoint, problems = newest_valid_checkpoint(root)
    assert checkpoint is not None
    assert checkpoint.step == 5
    assert problems == [f"{path}: deep/more.safetensors is not of this checkpoint: remove it"]


def test_no_folder_and_an_unfinished_save_mean_step_0(root: Path) -> None:
    assert newest_valid_checkpoint(root) == (None, [])
    (root / ".step-2.4711.tmp").mkdir(parents=True)
    assert newest_valid_checkpoint(root) == (None, [])
    save(root, 4)
    assert [entry.name for entry in root.iterdir()] == ["step-4"]


def test_the_last_two_and_the_best_stay(root: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        save(root, step, best_step=2)
    assert checkpoint_steps(root) == [2, 4, 5]


def test_a_foreign_folder_is_never_removed(root: Path) -> None:
    (root / "step-1").mkdir(parents=True)
    (root / "step-1" / "mine.txt").write_text("keep me")
    (root / "notes").mkdir()
    for step in (2, 3, 4, 5):
        save(root, step)
    assert (root / "step-1" / "mine.txt").read_text() == "keep me"
    assert (root / "notes").is_dir()
    assert checkpoint_steps(root) == [1, 4, 5]


def test_a_broken_checkpoint_does_not_count_as_kept(root: Path) -> None:
    for step in (1, 2):
        save(root, step)
    (root / "step-2" / FILES[0]).unlink()
    save(root, 3)
    assert checkpoint_steps(root) == [1, 3]


def test_a_step_with_a_valid_checkpoint_is_not_written_again(root: Path) -> None:
    save(root, 5)
    save_checkpoint(root, 5, lambda folder: pytest.fail("written again"), info={}, keep=1)


def test_a_broken_checkpoint_in_the_way_is_replaced_or_set_aside(root: Path) -> None:
    for step in (4, 5):
        save(root, step)
    (root / "step-5" / FILES[0]).write_bytes(b"x")
    save(root, 5)
    (root / "step-5" / "MANIFEST.json").write_bytes(b"{")
    save(root, 5)
    (root / "step-5" / "MANIFEST.json").unlink()
    save(root, 5)
    checkpoint, problems = newest_valid_checkpoint(root)
    assert checkpoint is not None
    assert (checkpoint.step, problems) == (5, [])
    assert sorted(entry.name for entry in root.iterdir()) == ["step-4", "step-5", "step-5.broken", "step-5.broken-1"]


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "longer":
        path.write_bytes(data + b"x")
    elif how == "flipped":
        position = len(data) // 2
        path.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
    elif how == "symlink":
        target = path.with_name("target")
        path.rename(target)
        path.symlink_to(target)


@pytest.mark.parametrize("name", [*FILES, "MANIFEST.json"])
@pytest.mark.parametrize("how", ["missing", "empty", "truncated", "longer", "flipped", "symlink"])
def test_damage_is_named_and_the_checkpoint_before_is_used(root: Path, name: str, how: str) -> None:
    save(root, 1)
    damage(save(root, 2) / name, how)
    checkpoint, problems = newest_valid_checkpoint(root)
    assert checkpoint is not None
    assert checkpoint.step == 1
    assert len(problems) == 1
    assert str(root / "step-2") in problems[0]
    assert name in problems[0]


def test_a_flipped_bit_of_a_manifest_is_harmless_or_seen(root: Path) -> None:
    path = save(root, 1)
    good = json.loads((path / "MANIFEST.json").read_text())
    data = (path / "MANIFEST.json").read_bytes()
    for bit in range(0, len(data) * 8, 3):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        (path / "MANIFEST.json").write_bytes(flipped)
        try:
            found = module._read_manifest(path)
        except ValueError:
            continue
        assert found == good, f"bit {bit}"


def test_no_valid_checkpoint_is_an_error_that_names_all(root: Path) -> None:
    for step in (1, 2):
        damage(save(root, step) / FILES[step], "flipped")
    with pytest.raises(RunError) as caught:
        newest_valid_checkpoint(root)
    message = str(caught.value)
    assert "2 checkpoints, none valid" in message
    assert FILES[1] in message
    assert FILES[2] in message
    assert "--fresh" in message


def test_a_renamed_checkpoint_is_not_taken_for_another_step(root: Path) -> None:
    save(root, 1)
    save(root, 2).rename(root / "step-9")
    checkpoint, problems = newest_valid_checkpoint(root)
    assert checkpoint is not None
    assert checkpoint.step == 1
    assert "is of step 2" in problems[0]


def test_links_are_refused(root: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    save(elsewhere, 3)
    save(root, 1)
    (root / "step-3").symlink_to(elsewhere / "step-3")
    checkpoint, problems = newest_valid_checkpoint(root)
    assert checkpoint is not None
    assert checkpoint.step == 1
    assert "symbolic links are not followed" in problems[0]
    with pytest.raises(RunError, match="symbolic link"):
        save(root, 3)
    link = tmp_path / "link"
    link.symlink_to(root)
    for use in (newest_valid_checkpoint, lambda path: save(path, 7)):
        with pytest.raises(RunError, match="symbolic link"):
            use(link)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", "./model.safetensors"])
def test_a_manifest_that_points_outside_is_refused(root: Path, name: str) -> None:
    path = save(root, 1)
    manifest = json.loads((path / "MANIFEST.json").read_text())
    manifest["files"][name] = {"bytes": 1, "sha256": "0"}
    manifest["manifest_sha256"] = module._digest_of(manifest)
    (path / "MANIFEST.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match="outside the checkpoint"):
        newest_valid_checkpoint(root)


def test_no_room_is_said_before_a_byte_is_written(root: Path) -> None:
    save(root, 1)
    with pytest.raises(RunError, match=r"needs 1,000,000,000\.0 GB, the disk has .* Free at least .*step-1"):
        save_checkpoint(
            root, 2, lambda folder: pytest.fail("wrote"), info={}, keep=1, required_bytes=1_000_000_000_000_000_000
        )


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_disk_that_fills_up_leaves_the_last_good_checkpoint(root: Path, error: Exception) -> None:
    def write(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half of it")
        raise error

    save(root, 1)
    with pytest.raises(RunError, match=r"is full .* the last good checkpoint is .*step-1"):
        save_checkpoint(root, 2, write, info={}, keep=1)
    assert [entry.name for entry in root.iterdir()] == ["step-1"]


def test_an_error_of_the_writer_passes_through(root: Path) -> None:
    def write(folder: Path) -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        save_checkpoint(root, 2, write, info={}, keep=1)
    assert list(root.iterdir()) == []


CHANGES = {"open", "write", "fsync", "fchmod", "mkdir", "rename", "replace", "unlink", "rmdir"}
"""Calls that change what is on disk; a kill between two of them is like a kill just before the second."""


def run_and_kill(work: Callable[[], object], at: int) -> bool:
    """Run `work` in a forked child that kills itself before its `at`-th change on disk. True when it was killed."""
    child = os.fork()
    if child == 0:
        seen = 0

        def watch(frame: object, event: str, arg: object) -> None:
            nonlocal seen
            if event == "c_call" and getattr(arg, "__name__", None) in CHANGES:
                seen += 1
                if seen == at:
                    os.kill(os.getpid(), signal.SIGKILL)

        threading.setprofile(watch)
        sys.setprofile(watch)
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_a_kill_before_any_change_of_a_save_leaves_a_valid_checkpoint(root: Path, tmp_path: Path) -> None:
    """Step 3 over 1 and 2, with a broken step 3 in the way and a removal after it: the longest path there is."""
    killed, at, seen = True, 0, []
    while killed:
        at += 1
        here = tmp_path / f"case-{at}"
        for step in (1, 2, 3):
            save(here, step)
        (here / "step-3" / FILES[0]).write_bytes(b"broken")
        killed = run_and_kill(partial(save, here, 3), at)
        checkpoint, _ = newest_valid_checkpoint(here)
        assert checkpoint is not None
        seen.append(checkpoint.step)
        assert (checkpoint.path / FILES[0]).read_bytes() == f"{FILES[0]} of step {checkpoint.step}".encode() * 50
        save(here, 4)
        assert [entry.name for entry in here.iterdir() if entry.name.startswith(".")] == []
    assert seen == sorted(seen)
    assert set(seen) == {2, 3}
    assert at > 30


def test_a_checkpoint_of_the_old_format_is_refused_with_its_reason(root: Path) -> None:
    path = save(root, 3)
    manifest = json.loads((path / "MANIFEST.json").read_text())
    old = {key: value for key, value in manifest.items() if key != "manifest_sha256"} | {"version": 1}
    old["manifest_sha256"] = hashlib.sha256(json.dumps(old, sort_keys=True).encode()).hexdigest()
    (path / "MANIFEST.json").write_text(json.dumps(old))
    with pytest.raises(RunError, match="has version 1, this tunesmith reads 2: go on with the tunesmith that began"):
        newest_valid_checkpoint(root)
