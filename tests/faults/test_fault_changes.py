"""A changed recipe or data is refused with the difference; two writers never share a run."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fault_sample import sample

if TYPE_CHECKING:
    from conftest import Lab

CHANGES: list[tuple[str, Any, str]] = [
    ("train__learning_rate", 0.004, "train.learning_rate: 0.005 -> 0.004"),
    ("train__seed", 8, "train.seed: 7 -> 8"),
    ("train__tokens_per_step", 320, "train.tokens_per_step: 640 -> 320"),
    ("train__micro_batch_tokens", 160, "train.micro_batch_tokens: 320 -> 160"),
    ("data__seed", 8, "data.seed: 7 -> 8"),
    ("data__max_rows", 40, "data.max_rows: 50 -> 40"),
    ("lora__rank", 8, "lora.rank: 4 -> 8"),
]


@pytest.mark.row("a changed recipe or data: refused with the difference")
@pytest.mark.parametrize(
    ("key", "value", "said"),
    sample(CHANGES, 0),
)
def test_a_changed_recipe_is_refused(lab: Lab, out: Path, key: str, value: Any, said: str) -> None:
    lab.stopped_at("full", out, 7)
    before = sorted(path for path in out.rglob("*") if path.name != "log.txt")
    child = lab.train(lab.recipe("full", **{key: value}), out)
    assert child.wait() == 2, child.output
    assert said in " ".join(child.output.split())
    assert "--force" in child.output
    assert sorted(path for path in out.rglob("*") if path.name != "log.txt") == before
    assert lab.finish("full", out) == lab.reference("full")


@pytest.mark.row("a changed recipe or data: refused with the difference")
def test_changed_data_is_refused(lab: Lab, out: Path, tmp_path: Path) -> None:
    data = tmp_path / "shows.csv"
    shutil.copy(lab.data, data)
    recipe = lab.recipe("full", data__path=str(data))
    child = lab.train(recipe, out, fault={"kind": "send", "number": 9, "at": "step", "nth": 5})
    assert child.wait() == 137
    text = data.read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    data.write_text("".join([*lines[:5], lines[5].replace("a", "e"), *lines[6:]]), encoding="utf-8")
    child = lab.train(recipe, out)
    assert child.wait() == 2, child.output
    assert "the data changed since step-3 was written" in " ".join(child.output.split())
    data.write_text(text, encoding="utf-8")
    assert lab.finish(recipe, out)["weights"] == lab.reference("full")["weights"]


@pytest.mark.row("a changed recipe or data: refused with the difference")
def test_a_forced_change_goes_on_and_a_fresh_run_starts_over(lab: Lab, out: Path) -> None:
    lab.stopped_at("full", out, 7)
    changed = lab.recipe("full", train__learning_rate=0.004)
    forced = lab.finish(changed, out, "--force")
    assert forced["weights"] != lab.reference("full")["weights"]
    rates = {line["step"]: line["learning_rate"] for line in forced["metrics"] if "learning_rate" in line}
    wanted = {line["step"]: line["learning_rate"] for line in lab.reference("full")["metrics"] if "loss" in line}
    for step, rate in rates.items():
        assert rate == pytest.approx(wanted[step] * (1 if step <= 6 else 0.8))
    assert lab.finish("full", out, "--fresh") == lab.reference("full")


@pytest.mark.row("a changed recipe or data: refused with the difference")
def test_a_base_model_that_was_trained_meanwhile_is_refused(lab: Lab, out: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(lab.models["lora"], tmp_path / "model"))
    recipe = lab.recipe("lora", model__name=str(model))
    child = lab.train(recipe, out, fault={"kind": "send", "number": 9, "at": "step", "nth": 5})
    assert child.wait() == 137
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[:-4] + bytes(4))
    child = lab.train(recipe, out)
    assert child.wait() == 2, child.output
    assert "the model changed since step-3 was written" in " ".join(child.output.split())
    (model / "model.safetensors").write_bytes(weights)
    assert lab.finish(recipe, out)["weights"] == lab.reference("lora")["weights"]


@pytest.mark.row("a clock set back, other libraries: no difference, or said")
def test_a_clock_that_was_set_back_changes_nothing(lab: Lab, out: Path) -> None:
    lab.stopped_at("full", out, 7)
    child = lab.train("full", out, fault={"kind": "set_clock_back", "seconds": 1e6})
    assert child.wait() == 0, child.output
    assert "from step 6 of 12" in child.output
    assert "other conditions" not in child.output
    assert lab.outcome(out) == lab.reference("full")


@pytest.mark.row("a clock set back, other libraries: no difference, or said")
def test_other_libraries_are_said(lab: Lab, out: Path) -> None:
    lab.stopped_at("full", out, 7)
    child = lab.train("full", out, fault={"kind": "other_library"})
    assert child.wait() == 0, child.output
    said = " ".join(child.output.split())
    assert "step-6 was written under other conditions (transformers " in said
    assert ", here 99.0.0). The run goes on" in said


@pytest.mark.row("two writers: the second is refused")
def test_two_writers_never_share_a_run(lab: Lab, out: Path) -> None:
    expected = lab.reference("full")
    first = lab.train("full", out, fault={"kind": "send", "number": signal.SIGSTOP, "at": "step", "nth": 5})
    while not (out / "checkpoints" / "step-3").is_dir():
        assert first.wait(0.02) is None, first.output
    second = lab.train("full", out)
    assert second.wait() == 2
    said = " ".join(second.output.split())
    assert f"this run is written by process {first.pid}" in said
    assert f"kill {first.pid}" in said
    while first.wait(0.02) is None:
        first.kill(signal.SIGCONT)  # it may not have stopped yet when the first of these comes
    assert first.code == 0, first.output
    assert lab.outcome(out) == expected


@pytest.mark.row("two writers: the second is refused")
def test_a_fresh_start_waits_for_the_lock_too(lab: Lab, out: Path) -> None:
    lab.stopped_at("full", out, 7)
    (out / "lock").unlink(missing_ok=True)
    holder = lab.zygote.start("hold_lock", run=str(out))
    while not out.with_suffix(".held").exists():
        assert holder.wait(0.02) is None, holder.output
    child = lab.train("full", out, "--fresh")
    assert child.wait() == 2
    assert f"written by process {holder.pid}" in " ".join(child.output.split())
    assert (out / "checkpoints" / "step-6").is_dir()
    holder.kill()
    assert holder.wait() == 137
    child = lab.train("full", out)
    assert child.wait() == 0, child.output
    assert f"taken over from process {holder.pid}" in " ".join(child.output.split())
    assert lab.outcome(out) == lab.reference("full")


@pytest.mark.row("files and folders are private")
def test_everything_in_a_run_is_private(lab: Lab) -> None:
    lab.reference("full")
    out = lab.folder / "reference-full"
    open_to_others = [path for path in (out, *out.rglob("*")) if path.stat().st_mode & 0o077]
    assert open_to_others == []
    assert [path.name for path in out.rglob(".*")] == []
    assert os.access(out / "report.html", os.R_OK)
