"""The scripts and the notebook of examples/ run, on a model of two layers."""

from __future__ import annotations

import csv
import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from tunesmith import Run

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = {"csv_to_comparison.py", "frame_to_run.py", "notebook.ipynb", "take_it_along.py"}


def main_of(name: str) -> Any:
    return runpy.run_path(str(EXAMPLES / name), run_name="example")["main"]


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def poems(tmp_path: Path, shows_csv: Path) -> Path:
    with shows_csv.open(encoding="utf-8") as file:
        rows = [row["description"] for row in csv.DictReader(file)][:40]
    with (tmp_path / "poems.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["body"])
        writer.writerows([row] for row in rows)
    return tmp_path / "poems.csv"


def test_all_are_run_here() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.name != "__pycache__"} == NAMES


def test_a_table_becomes_a_comparison_and_leaves(
    poems: Path, tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = main_of("csv_to_comparison.py")([str(poems), "body", "--model", str(tiny_llama)])
    assert (run.path / "compare.json").is_file()
    assert (run.path / "report.html").is_file()
    folder = main_of("take_it_along.py")([str(run.path)])
    assert (folder / "model.safetensors").is_file()
    said = capsys.readouterr().out
    assert "held-out loss " in said
    assert "loaded by transformers" in said


def test_a_frame_becomes_a_run(tiny_llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pandas")
    run = main_of("frame_to_run.py")(["--model", str(tiny_llama)])
    assert run.recipe.train.method == "lora"
    assert (run.path / "model" / "adapter_config.json").is_file()
    assert "0 that stop the run" in capsys.readouterr().out


def test_the_cells_of_the_notebook_run_in_order(tiny_llama: Path) -> None:
    pytest.importorskip("pandas")
    cells = json.loads((EXAMPLES / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    names: dict[str, Any] = {}
    for cell in cells:
        assert not cell.get("outputs"), "outputs are not kept"
        if cell["cell_type"] == "code":
            text = cell["source"].replace('"smollm2-135m"', repr(str(tiny_llama)))
            exec(compile(text, cell["id"], "exec"), names)
    run = names["run"]
    assert isinstance(run, Run)
    assert "<" in run._repr_html_()
    assert names["losses"]
