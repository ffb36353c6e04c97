"""A disk or quota that fills up in a save: one message, the last good checkpoint intact, and on after room is made."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fault_sample import sample

if TYPE_CHECKING:
    from conftest import Lab

ROOM = (0, 4_096, 50_000, 150_000, 210_000, 300_000, 400_000, 550_000, 640_000)
"""Bytes left for the second checkpoint, which needs about 650,000."""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path | None]:
    """A file system of 16 MB, or None where mounting is not allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        yield None
        return
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def assert_refused(lab: Lab, run: Path, fault: dict[str, Any], step: int) -> None:
    child = lab.train("full", run, fault=fault)
    assert child.wait() == 2, child.output
    said = " ".join(child.output.split())
    assert "is full" in said
    assert "Free some room" in said
    assert "Traceback" not in said
    assert f"the last good checkpoint is {run}/checkpoints/step-{step}." in said
    kept = [path.name for path in (run / "checkpoints").iterdir() if not path.name.startswith("best-")]
    assert kept == [f"step-{step}"]
    assert not (run / "model").exists()


@pytest.mark.row("a disk that fills up in a save")
@pytest.mark.parametrize("room", sample(ROOM, 4))
def test_a_disk_that_fills_up_in_a_save(lab: Lab, small_disk: Path | None, out: Path, room: int) -> None:
    expected = lab.reference("full")
    if small_disk is None:  # a limit on the size of each file stands for the quota
        assert_refused(lab, out, {"kind": "limit_files", "num_bytes": min(room, 190_000), "save": 2}, step=3)
        assert lab.finish("full", out) == expected
        return
    run, filler = small_disk / "run", small_disk / "filler"
    assert_refused(lab, run, {"kind": "fill_disk", "save": 2, "leave": room, "filler": str(filler)}, step=3)
    filler.unlink()
    assert lab.finish("full", run) == expected


@pytest.mark.row("a quota on the size of files")
def test_a_quota_in_a_save(lab: Lab, out: Path) -> None:
    assert_refused(lab, out, {"kind": "limit_files", "num_bytes": 100_000, "save": 2}, step=3)
    assert lab.finish("full", out) == lab.reference("full")


@pytest.mark.row("no room at the start: refused before step 1")
def test_no_room_is_said_before_step_1(lab: Lab, small_disk: Path | None) -> None:
    if small_disk is None:
        pytest.skip("mounting a small file system is not allowed here")
    filler = small_disk / "filler"
    filler.write_bytes(bytes(15_500_000))
    child = lab.train("full", small_disk / "run")
    assert child.wait() == 2, child.output
    assert "needs 2 MB" in " ".join(child.output.split())
    assert "base model" not in child.output
    filler.unlink()
    assert lab.finish("full", small_disk / "run") == lab.reference("full")


@pytest.mark.row("no room at the start: refused before step 1")
def test_a_disk_without_a_byte_left_is_said(lab: Lab, small_disk: Path | None) -> None:
    if small_disk is None:
        pytest.skip("mounting a small file system is not allowed here")
    state = os.statvfs(small_disk)
    (small_disk / "filler").write_bytes(bytes(state.f_bavail * state.f_frsize))
    child = lab.train("full", small_disk / "run")
    assert child.wait() == 2, child.output
    said = " ".join(child.output.split())
    assert "is full" in said
    assert "Nothing is lost" in said
    assert not (small_disk / "run" / "lock").exists()
    (small_disk / "filler").unlink()
    child = lab.train("full", small_disk / "run")
    assert child.wait() == 0, child.output
    assert "taken over" not in child.output
    assert lab.outcome(small_disk / "run") == lab.reference("full")


@contextlib.contextmanager
def read_only(folder: Path, small_disk: Path | None) -> Iterator[None]:
    """Nobody can write below `folder`, root included where a disk can be mounted."""
    if small_disk is not None:
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        yield
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
        return
    if os.geteuid() == 0:
        pytest.skip("root writes everywhere, and mounting is not allowed here")
    folder.chmod(0o500)
    yield
    folder.chmod(0o700)


@pytest.mark.row("a run or folder that cannot be written: said, nothing lost")
@pytest.mark.parametrize("name", ["run", "new"])
def test_what_cannot_be_written_is_said(lab: Lab, small_disk: Path | None, tmp_path: Path, name: str) -> None:
    folder = small_disk or tmp_path / "runs"
    folder.mkdir(exist_ok=True)
    lab.stopped_at("full", folder / "run", 7)
    with read_only(folder / "run" if name == "run" else folder, small_disk):
        child = lab.train("full", folder / name)
        assert child.wait() == 2, child.output
    said = " ".join(child.output.split())
    assert "cannot be written" in said
    assert "Traceback" not in said
    assert lab.finish("full", folder / name) == lab.reference("full")


@pytest.mark.row("a cache that cannot be written: said")
@pytest.mark.parametrize("how", ["read-only", "full", "nothing at all"])
def test_a_cache_that_cannot_be_written_is_said(lab: Lab, small_disk: Path | None, out: Path, how: str) -> None:
    if small_disk is None:
        pytest.skip("mounting a small file system is not allowed here")
    cache = small_disk / "cache"
    if how != "nothing at all":
        (cache / "tunesmith").mkdir(parents=True)
    if how == "full":
        state = os.statvfs(small_disk)
        (small_disk / "filler").write_bytes(bytes(state.f_bavail * state.f_frsize))
    with read_only(cache, small_disk) if how != "full" else contextlib.nullcontext():
        arguments = ["train", str(lab.recipe("full")), "--out", str(out)]
        child = lab.zygote.start("tunesmith", arguments=arguments, environment={"XDG_CACHE_HOME": str(cache)})
        assert child.wait() == 2, child.output
    said = " ".join(child.output.split())
    assert "set XDG_CACHE_HOME to" in said
    assert "Traceback" not in said
    assert not out.exists()


@pytest.mark.row("a disk that is full for the final model")
def test_a_disk_that_is_full_for_the_final_model(lab: Lab, out: Path) -> None:
    expected = lab.reference("full")
    child = lab.train("full", out, fault={"kind": "limit_files", "num_bytes": 50_000, "save": None})
    assert child.wait() == 2, child.output
    assert "is full" in " ".join(child.output.split())
    assert not (out / "model").exists()
    assert lab.finish("full", out) == expected
