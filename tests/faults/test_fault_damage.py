"""Damaged checkpoints: named, passed over for the one before, and never a silent difference."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fault_sample import sample

if TYPE_CHECKING:
    from conftest import Lab

FILES = (
    "MANIFEST.json",
    "best.safetensors",
    "model.safetensors",
    "optimizer.safetensors",
    "progress.safetensors",
    "rng.safetensors",
)
DAMAGES = ("truncated", "empty", "missing", "flipped")


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "flipped":
        position = len(data) * 2 // 3
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
    else:
        path.write_bytes(data[: len(data) // 2] if how == "truncated" else b"")


CASES = [(name, how) for name in FILES for how in DAMAGES]


@pytest.mark.row("a damaged file in the newest checkpoint")
@pytest.mark.parametrize(("name", "how"), sample(CASES, 0, 7, 10))
def test_a_damaged_file_is_named_and_the_checkpoint_before_is_used(lab: Lab, out: Path, name: str, how: str) -> None:
    lab.stopped_at("full", out, 7)
    damage(out / "checkpoints" / "step-6" / name, how)
    child = lab.train("full", out)
    assert child.wait() == 0, child.output
    said = " ".join(child.output.split())
    assert "passed over a broken checkpoint" in said
    assert name in said
    assert "from step 3" in said
    assert lab.outcome(out) == lab.reference("full")


def test_every_file_of_a_checkpoint_is_damaged_above(lab: Lab, out: Path) -> None:
    lab.stopped_at("full", out, 7)
    assert sorted(path.name for path in (out / "checkpoints" / "step-6").iterdir()) == sorted(FILES)


@pytest.mark.row("no checkpoint valid: refused, never step 0")
@pytest.mark.parametrize("how", sample(DAMAGES, 3))
def test_no_valid_checkpoint_is_refused(lab: Lab, out: Path, how: str) -> None:
    lab.stopped_at("full", out, 7)
    for step in (3, 6):
        damage(out / "checkpoints" / f"step-{step}" / "rng.safetensors", how)
    child = lab.train("full", out)
    assert child.wait() == 2
    assert "2 checkpoints, none valid" in " ".join(child.output.split())
    assert not (out / "model").exists()
    assert lab.finish("full", out, "--fresh") == lab.reference("full")


@pytest.mark.row("a damaged file beside the checkpoints")
@pytest.mark.parametrize("how", sample(DAMAGES, 0))
@pytest.mark.parametrize("name", sample(["plan.json", "data.json", "metrics.jsonl"], 2))
def test_files_beside_the_checkpoints_decide_nothing(lab: Lab, out: Path, name: str, how: str) -> None:
    lab.stopped_at("full", out, 7)
    damage(out / name, how)
    assert lab.finish("full", out)["weights"] == lab.reference("full")["weights"]


@pytest.mark.row("a damaged file beside the checkpoints")
@pytest.mark.parametrize("how", sample([how for how in DAMAGES if how != "missing"], 1))
def test_a_damaged_recipe_of_the_run_is_written_again(lab: Lab, out: Path, how: str) -> None:
    """The checkpoint holds the recipe too, and is believed where half of the file would be another valid recipe."""
    lab.stopped_at("full", out, 7)
    path = out / "recipe.yaml"
    whole = path.read_text()
    damaged = {"truncated": whole[: whole.index("train:")], "flipped": whole.replace("seed: 7", "seed: 6"), "empty": ""}
    path.write_text(damaged[how])
    assert lab.finish("full", out) == lab.reference("full")
    assert path.read_text() == whole


@pytest.mark.row("a damaged file beside the checkpoints")
def test_a_run_without_its_recipe_is_not_taken_for_something_else(lab: Lab, out: Path) -> None:
    lab.stopped_at("full", out, 7)
    recipe = out / "recipe.yaml"
    text = recipe.read_text()
    recipe.unlink()
    child = lab.train("full", out)
    assert child.wait() == 2
    assert f"holds checkpoints but no recipe.yaml. Copy the recipe of this run to {recipe}" in " ".join(
        child.output.split()
    )
    recipe.write_text(text)
    assert lab.finish("full", out) == lab.reference("full")


@pytest.mark.row("a damaged file beside the checkpoints")
@pytest.mark.parametrize(
    ("name", "how"), sample([("report.html", "missing"), *(("result.json", how) for how in DAMAGES)], 0, 1)
)
def test_what_a_finished_run_lost_is_written_again(lab: Lab, out: Path, name: str, how: str) -> None:
    expected = lab.reference("full")
    shutil.copytree(lab.folder / "reference-full", out)
    if how == "flipped":
        (out / name).write_text((out / name).read_text().replace("{", "[", 1))
    else:
        damage(out / name, how)
    assert lab.finish("full", out) == expected


@pytest.mark.row("prepared data damaged in the cache: prepared again")
@pytest.mark.parametrize("how", sample(DAMAGES, 3))
@pytest.mark.parametrize("name", sample(["train/tokens.npy", "train/offsets.npy", "account.json"], 0))
def test_damaged_data_in_the_cache_is_made_again(lab: Lab, out: Path, tmp_path: Path, name: str, how: str) -> None:
    lab.stopped_at("full", out, 7)
    arguments = ["train", str(lab.recipe("full")), "--out", str(out)]
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    data = ["data", *arguments[1:2]]
    child = lab.zygote.start("tunesmith", arguments=data, environment=environment)
    assert child.wait() == 0, child.output
    (prepared,) = (path for path in (tmp_path / "cache" / "tunesmith" / "data").iterdir() if path.is_dir())
    damage(prepared / name, how)
    child = lab.zygote.start("tunesmith", arguments=arguments, environment=environment)
    assert child.wait() == 0, child.output
    assert lab.outcome(out) == lab.reference("full")


@pytest.mark.row("a damaged file beside the checkpoints")
def test_a_changed_value_in_the_recipe_of_the_run_is_seen(lab: Lab, out: Path) -> None:
    lab.stopped_at("full", out, 7)
    recipe = out / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("learning_rate: 0.005", "learning_rate: 0.007"))
    child = lab.train(recipe, out, "--resume")
    assert child.wait() == 2
    assert "train.learning_rate: 0.005 -> 0.007" in " ".join(child.output.split())


@pytest.mark.row("a checkpoint of another run put in place")
def test_a_checkpoint_of_another_run_is_refused(lab: Lab, out: Path, tmp_path: Path) -> None:
    lab.stopped_at("full", out, 7)
    other = tmp_path / "other"
    lab.stopped_at("lora", other, 7)
    shutil.rmtree(out / "checkpoints" / "step-6")
    shutil.copytree(other / "checkpoints" / "step-6", out / "checkpoints" / "step-6")
    child = lab.train("full", out)
    assert child.wait() == 2
    assert "train.method: 'lora' -> 'full'" in " ".join(child.output.split())
    assert json.loads((out / "checkpoints" / "step-6" / "MANIFEST.json").read_text())["step"] == 6
