"""The run directory: names, private files, whole replacements, nothing deleted that is not ours."""

from __future__ import annotations

import math
import stat
from pathlib import Path

import pytest

from tunesmith.errors import RunError
from tunesmith.recipe import Recipe
from tunesmith.run.directory import RunDir, check_run_path

RECIPE = Recipe(model={"name": "m"}, data={"path": "a.csv"})


def test_files_are_private(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run")
    run.write_recipe(RECIPE)
    run.append_metrics({"step": 1})
    assert stat.S_IMODE(run.path.stat().st_mode) == 0o700
    for name in ("recipe.yaml", "metrics.jsonl"):
        assert stat.S_IMODE(run.file(name).stat().st_mode) == 0o600


@pytest.mark.parametrize("out", ["s3://bucket/run", Path("gs://bucket/run"), "hf://buckets/me/run", "memory://run"])
def test_an_address_is_no_folder(out: str | Path) -> None:
    with pytest.raises(RunError, match=r"is an address; expected a folder"):
        check_run_path(out)


def test_a_drive_of_windows_is_no_address() -> None:
    assert check_run_path("C:/runs/one").name == "one"


@pytest.mark.parametrize("name", ["a b", "a;b", "x" * 65, "ü", "..", "a\nb", "$(x)"])
def test_hostile_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RunError):
        check_run_path(tmp_path / name)


def test_places_that_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(RunError, match="is a file"):
        RunDir.create(tmp_path / "file")
    with pytest.raises(RunError, match="symbolic link"):
        RunDir.create(tmp_path / "link")
    with pytest.raises(RunError, match=r"may not contain '\.\.'"):
        check_run_path(tmp_path / "a" / ".." / "b")


def test_a_directory_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(RunError, match="holds no run"):
        RunDir.create(tmp_path)


def test_clear_removes_our_artefacts_only(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run")
    run.write_recipe(RECIPE)
    run.append_metrics({"step": 1})
    run.model.mkdir()
    run.file("notes.txt").write_text("mine")
    run.clear()
    assert [path.name for path in run.path.iterdir()] == ["notes.txt"]


def test_clear_does_not_follow_links(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").write_text("x")
    run = RunDir.create(tmp_path / "run")
    run.model.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="symbolic link"):
        run.clear()
    assert (tmp_path / "elsewhere" / "precious").exists()


def test_writing_through_a_link_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("x")
    run = RunDir.create(tmp_path / "run")
    run.file("metrics.jsonl").symlink_to(target)
    with pytest.raises(RunError, match="symbolic link"):
        run.append_metrics({"step": 1})
    assert target.read_text() == "x"


def test_json_holds_no_nan(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run")
    run.write_json("result.json", {"loss": math.nan, "nested": [math.inf, 1.5]})
    assert run.read_json("result.json") == {"loss": None, "nested": [None, 1.5]}


def test_damaged_and_missing_artefacts(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run")
    with pytest.raises(RunError, match=r"`tunesmith compare` writes it"):
        run.read_json("compare.json")
    run.file("result.json").write_text("{")
    with pytest.raises(RunError, match="not valid JSON"):
        run.read_json("result.json")
    with pytest.raises(RunError, match="no run here"):
        RunDir.open(tmp_path / "nowhere")


def test_metrics_survive_a_cut_line_and_are_rewound(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run")
    for step in range(5):
        run.append_metrics({"step": step, "loss": 1.0})
    with run.file("metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    assert [line["step"] for line in run.metrics()] == [0, 1, 2, 3, 4]
    run.keep_lines_until(2)
    assert [line["step"] for line in run.metrics()] == [0, 1, 2]
