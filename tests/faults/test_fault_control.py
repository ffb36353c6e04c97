"""The same kills on transformers' plain Trainer: the lab must see it fail, or it would see nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fault_sample import sample

if TYPE_CHECKING:
    from conftest import Lab


def plain(lab: Lab, out: Path, fault: dict[str, object] | None = None) -> int | None:
    options = {"model": str(lab.models["full"]), "data": str(lab.data), "out": str(out)}
    return lab.zygote.start("plain", fault, **options).wait()


def final(out: Path) -> str:
    found: str = json.loads((out / "final.json").read_text())["weights"]
    return found


@pytest.mark.row("control: the plain Trainer is seen to fail")
def test_the_plain_trainer_is_deterministic_so_that_a_difference_means_something(lab: Lab, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert plain(lab, tmp_path / name) == 0
    assert final(tmp_path / "a") == final(tmp_path / "b")


@pytest.mark.row("control: the plain Trainer is seen to fail")
@pytest.mark.parametrize("at", sample([6, *range(2, 6), *range(7, 13)], 0))
def test_a_kill_inside_a_save_is_not_survived(lab: Lab, tmp_path: Path, at: int) -> None:
    """Each change on disk from the second, when the folder is there, to the last, which writes the state's file."""
    assert plain(lab, tmp_path / "whole") == 0
    assert plain(lab, tmp_path / "killed", {"kind": "kill_plain_save", "save": 3, "at": at}) == 137
    code = plain(lab, tmp_path / "killed")
    assert code != 0 or final(tmp_path / "killed") != final(tmp_path / "whole")


@pytest.mark.row("control: the plain Trainer is seen to fail")
@pytest.mark.parametrize("name", sample(["optimizer.pt", "rng_state.pth"], 0))
def test_a_missing_file_is_a_silent_difference(lab: Lab, tmp_path: Path, name: str) -> None:
    assert plain(lab, tmp_path / "whole") == 0
    out = tmp_path / "damaged"
    assert plain(lab, out, {"kind": "kill_plain_save", "save": 4, "at": 1}) == 137
    (out / "checkpoint-6" / name).unlink()
    (out / "checkpoint-8").rmdir() if (out / "checkpoint-8").is_dir() else None
    assert plain(lab, out) == 0
    assert final(out) != final(tmp_path / "whole")
