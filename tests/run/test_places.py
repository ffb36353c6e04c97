"""No artefact names a place of this machine; what was written relative stays, and so does everything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.recipe import Recipe
from tunesmith.run.artefacts import Status
from tunesmith.run.directory import LOG, RECIPE, RunDir
from tunesmith.run.places import Places


def places(path: object, **data: object) -> Places:
    recipe = Recipe(model={"name": "/models/llama"}, data={"path": path, **data})
    return Places.of(Path("runs/shows"), recipe)


def test_a_full_path_is_called_by_its_name_also_inside_a_text() -> None:
    found = places("/home/anna/shows.csv", eval_path="/srv/held out.csv", test_path="kept/test.csv")
    assert found.by_name("/home/anna/shows.csv:17 repeats /srv/held out.csv:3, not kept/test.csv.") == (
        "shows.csv:17 repeats held out.csv:3, not kept/test.csv."
    )
    assert found.by_name({"files": [{"path": "/home/anna/shows.csv"}], "base": "/models/llama", "n": 3}) == {
        "files": [{"path": "shows.csv"}],
        "base": "llama",
        "n": 3,
    }


@pytest.mark.parametrize(
    ("written", "named", "expected"),
    [
        ("/home/anna/data", "/home/anna/data/a/b.csv:2", "data/a/b.csv:2"),
        ("/home/anna/data/*.csv", "/home/anna/data/a.csv:2", "data/a.csv:2"),
        ([{"path": "/one/a.csv"}, {"path": "hub:owner/two"}], "/one/a.csv, hub:owner/two", "a.csv, hub:owner/two"),
        ("data/a.csv", "data/a.csv:2", "data/a.csv:2"),
        ("hub:owner/name", "hub:owner/name", "hub:owner/name"),
        ("https://host/a/b.csv", "https://host/a/b.csv:1", "https://host/a/b.csv:1"),
    ],
)
def test_folders_patterns_and_lists(written: object, named: str, expected: str) -> None:
    assert places(written).by_name(named) == expected


def test_a_path_inside_another_word_or_path_is_left_alone() -> None:
    found = places("/data")
    assert found.by_name("/data/a.csv and /database/a.csv and old/data/a.csv and 1/data2") == (
        "data/a.csv and /database/a.csv and old/data/a.csv and 1/data2"
    )
    assert places("/").by_name("and/or /") == "and/or /"


def test_a_home_folder_is_named_neither_as_written_nor_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/anna")
    assert places("~/texts/shows.csv").by_name("~/texts/shows.csv is /home/anna/texts/shows.csv") == (
        "shows.csv is shows.csv"
    )


def test_artefacts_and_log_hold_names_and_the_recipe_what_was_written(tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path / "run")
    data = tmp_path / "shows.csv"
    run_dir.write_recipe(Recipe(model={"name": "smollm2-135m"}, data={"path": str(data)}))
    run_dir.log(f"saved {run_dir.model}; read {data}:2")
    run_dir.write_json(Status.FILE, {"doing": f"reading {data}"})
    assert run_dir.file(LOG).read_text(encoding="utf-8") == "saved run/model; read shows.csv:2\n"
    assert run_dir.read_json(Status.FILE) == {"doing": "reading shows.csv"}
    assert str(data) in run_dir.file(RECIPE).read_text(encoding="utf-8")
    again = RunDir.open(run_dir.path)
    again.write_json(Status.FILE, {"doing": f"reading {data}"})
    assert again.read_json(Status.FILE) == {"doing": "reading shows.csv"}
