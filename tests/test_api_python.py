"""The Python API beyond the commands: data from memory, callbacks, what `tunesmith` itself offers, notebooks."""

from __future__ import annotations

import datetime
import html
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import tunesmith
from tunesmith.api import Run
from tunesmith.data import Data
from tunesmith.data.read.given import folder_of, keep
from tunesmith.errors import DataError, RecipeError, RunError, Stopped

Prepared = Callable[..., Data]
QUIET = Console(quiet=True)
TEXTS = [
    f"{word} goes to town number {number}" for number, word in enumerate(["Anna", "Ben", "Cleo", "Dan", "Eva"] * 4)
]


def rows_of(path: str) -> list[Any]:
    (file,) = folder_of(path).glob("*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


class PolarsLike:
    """A frame as polars has it, as far as it is used."""

    def __init__(self, columns: dict[str, list[Any]]) -> None:
        self.columns = list(columns)
        self.rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def iter_rows(self, *, named: bool = False) -> Iterator[dict[str, Any]]:
        assert named
        return iter(self.rows)


def test_every_kind_of_table_gives_the_same_rows() -> None:
    datasets, pandas, pyarrow = map(pytest.importorskip, ("datasets", "pandas", "pyarrow"))
    columns: dict[str, list[Any]] = {"text": TEXTS, "n": list(range(20))}
    dicts = [{"text": text, "n": number} for number, text in enumerate(TEXTS)]
    tables = [
        pandas.DataFrame(columns),
        PolarsLike(columns),
        datasets.Dataset.from_dict(columns),
        pyarrow.table(columns),
        dicts,
        (row for row in dicts),
        columns,
    ]
    assert len({keep(table) for table in tables}) == 1
    assert rows_of(keep(tables[0])) == dicts
    assert rows_of(keep(TEXTS)) == TEXTS
    assert rows_of(keep(pandas.Series(TEXTS))) == TEXTS


def test_a_polars_frame_gives_its_rows() -> None:
    polars = pytest.importorskip("polars", reason="needs polars, of the extra dev-all")
    frame = polars.DataFrame(
        {
            "text": ["a", None],
            "n": [1, None],
            "x": [0.5, float("nan")],
            "when": [datetime.date(2024, 2, 3), None],
            "list": [[1, 2], []],
            "turn": [{"role": "user"}, {"role": None}],
            "kind": polars.Series(["b", "c"], dtype=polars.Categorical),
        }
    )
    assert rows_of(keep(frame)) == [
        {"text": "a", "n": 1, "x": 0.5, "when": "2024-02-03", "list": [1, 2], "turn": {"role": "user"}, "kind": "b"},
        {"text": None, "n": None, "x": None, "when": None, "list": [], "turn": {"role": None}, "kind": "c"},
    ]
    assert rows_of(keep(polars.Series("text", TEXTS))) == TEXTS
    assert keep(polars.DataFrame({"text": TEXTS})) == keep([{"text": text} for text in TEXTS])
    assert rows_of(keep(polars.LazyFrame({"text": TEXTS}).collect())) == [{"text": text} for text in TEXTS]


def test_values_of_numpy_and_pandas_become_plain() -> None:
    numpy, pandas = map(pytest.importorskip, ("numpy", "pandas"))
    frame = pandas.DataFrame(
        {
            "text": ["a", None],
            "n": [numpy.int64(1), numpy.int64(2)],
            "x": [0.5, float("nan")],
            "when": [pandas.Timestamp("2024-02-03"), pandas.NaT],
            "list": [numpy.array([1, 2]), []],
            3: [datetime.date(2024, 2, 3), pandas.NA],
        }
    )
    assert rows_of(keep(frame)) == [
        {"text": "a", "n": 1, "x": 0.5, "when": "2024-02-03T00:00:00", "list": [1, 2], "3": "2024-02-03"},
        {"text": None, "n": 2, "x": None, "when": None, "list": [], "3": None},
    ]


@pytest.mark.parametrize("data", [7, [], [1, 2], {"a": 3}, {"a": [1], "b": [1, 2]}, [{"text": b"x"}], {}], ids=str)
def test_what_is_no_data_is_refused(data: Any) -> None:
    with pytest.raises(DataError, match="Expected"):
        keep(data)


def test_splits_by_name(prepared: Prepared) -> None:
    path = keep({"train": TEXTS[:15], "validation": [{"text": text} for text in TEXTS[15:]]})
    data = prepared(path, near_duplicates=False)
    assert (len(data.train), len(data.eval)) == (15, 5)
    assert data.train.row_name(0) == "train:1"
    assert data.account.split_by == "the files' names: train to train on, validation held out"


def test_data_that_this_machine_has_not_is_named(prepared: Prepared) -> None:
    for path in ("python:0123abc", "python:../../etc"):
        with pytest.raises(DataError, match="not in the cache of this machine"):
            prepared(path)


@pytest.fixture(scope="module")
def recipe(tiny_llama: Path) -> dict[str, Any]:
    return {
        "model": {"name": str(tiny_llama)},
        "train": {"max_steps": 4, "max_length": 128, "tokens_per_step": 64, "rehearse": False},
        "data": {"near_duplicates": False, "eval_fraction": 0.2},
        "compare": {"max_new_tokens": 5, "num_samples": 4},
    }


@pytest.fixture(scope="module")
def run(recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tunesmith.train(recipe, data=TEXTS, out=tmp_path_factory.mktemp("runs") / "texts", console=QUIET)


def test_train_takes_a_dict_and_texts(run: Run) -> None:
    assert run.result["steps"] == 4
    assert run.recipe.data.path == keep(TEXTS)
    account = run.dir.read_json("data.json")
    assert (account["rows_read"], account["files"][0]["path"]) == (20, "data")


def test_splits_are_said_while_training(recipe: dict[str, Any], tmp_path: Path) -> None:
    said = io.StringIO()
    data = {"train": TEXTS[:15], "test": TEXTS[15:], "dev": ["A text that is held out", "And another one"]}
    run = tunesmith.train(recipe, data=data, out=tmp_path / "x", console=Console(file=said, width=300))
    assert "the files' names: train to train on, dev held out, test for test" in said.getvalue()
    assert {name: split["documents"] for name, split in run.dir.read_json("data.json")["splits"].items()} == {
        "train": 15,
        "eval": 2,
        "test": 5,
    }


def test_a_recipe_file_and_a_recipe_take_data_too(recipe: dict[str, Any], tmp_path: Path) -> None:
    import yaml

    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(recipe))
    frame = PolarsLike({"n": [1] * 20, "body": TEXTS})
    report = tunesmith.audit(path, data=frame)
    assert "text in column 'body'" in report.findings[0].found
    made = tunesmith.Recipe.parse({**recipe, "data": {"path": "gone.csv", "eval_fraction": 0}})
    report = tunesmith.audit(made, data=TEXTS)
    assert "no row is held out" in report.findings[1].found
    assert tunesmith.plan(recipe, data=TEXTS).to_json()


def test_a_wrong_dict_is_told_as_a_recipe_is(recipe: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"train\.learning_rte: unknown key"):
        tunesmith.train({**recipe, "train": {"learning_rte": 1}}, data=TEXTS, out=tmp_path / "x")
    with pytest.raises(RunError, match="out="):
        tunesmith.train(recipe, data=TEXTS)


def test_overrides_go_before_a_dict_and_leave_it(recipe: dict[str, Any], tmp_path: Path) -> None:
    made = tunesmith.train(
        recipe, data=TEXTS, out=tmp_path / "x", overrides=["train.max_steps=1", "eval.every=1"], console=QUIET
    )
    assert made.result["steps"] == 1
    assert recipe["train"]["max_steps"] == 4
    assert "path" not in recipe["data"]


def test_callbacks_follow_a_run_and_end_it(recipe: dict[str, Any], tmp_path: Path) -> None:
    lines: list[Any] = []
    scores: list[int] = []
    call: dict[str, Any] = {
        "data": TEXTS,
        "out": tmp_path / "x",
        "on_step": lines.append,
        "on_evaluate": lambda step, found: scores.append(step),
        "console": QUIET,
    }
    with pytest.raises(Stopped, match="stop\\(\\) said so at step 3/4"):  # saved one step later
        tunesmith.train(recipe, stop=lambda: lines[-1].step >= 2, **call)
    assert [line.step for line in lines] == [1, 2, 3]
    assert scores[0] == 0
    run = tunesmith.train(recipe, **call)
    assert run.result["steps"] == 4
    assert [line.step for line in lines] == [1, 2, 3, 4]
    assert scores[-1] == 4


def test_a_run_keeps_its_models(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned, base = run.generate("Anna"), run.generate("Anna", base=True)
    import tunesmith.models.load as module

    monkeypatch.setattr(module, "load_for_generation", None)
    assert run.generate("Anna") == tuned
    assert run.generate("Anna", base=True) == base
    ours, theirs = run.load()[0].state_dict(), run.load(base=True)[0].state_dict()
    assert any((ours[name] != theirs[name]).any() for name in ours)
    run.unload()
    with pytest.raises(TypeError):
        run.generate("Anna")


def test_a_run_shows_itself_in_a_notebook(run: Run) -> None:
    page = run._repr_html_()
    assert "held-out loss" in page
    assert f"{run.result['eval_loss']:.4g}" in page
    assert "<script" not in page
    assert repr(run) == f"Run(path={run.path!r})"


def test_a_report_is_a_path_that_a_notebook_shows_as_the_page(run: Run) -> None:
    path = run.report()
    assert path == run.path / "report.html"
    assert isinstance(path, Path)
    shown = path._repr_html_()  # type: ignore[attr-defined]
    assert shown.startswith('<iframe srcdoc="&lt;!doctype html&gt;')
    assert html.unescape(shown.split('srcdoc="')[1].split('" style=')[0]) == path.read_text(encoding="utf-8")


def test_a_run_that_has_no_result_shows_itself_too(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "<b>"
    folder.mkdir()
    (folder / "recipe.yaml").write_bytes((run.path / "recipe.yaml").read_bytes())
    assert "&lt;b&gt;" in Run(folder)._repr_html_()


CALLED = """
import tunesmith
assert set(tunesmith.__all__) <= set(dir(tunesmith))
assert "annotations" not in dir(tunesmith) and "import_module" not in dir(tunesmith)
{first}
assert all(callable(getattr(tunesmith, name)) for name in ("plan", "audit", "doctor", "generate", "train"))
assert tunesmith.plan.make_plan and tunesmith.fast.apply and tunesmith.models.find.find_model
assert tunesmith.doctor.examine and tunesmith.audit.stage.audit_recipe and tunesmith.generate.text.generate
try:
    tunesmith.learn
except AttributeError as error:
    print(error)
"""


@pytest.mark.parametrize("first", ["", "import tunesmith.plan, tunesmith.doctor\nfrom tunesmith.generate import text"])
def test_names_at_the_top_work_whatever_was_imported(first: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CALLED.format(first=first)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "module 'tunesmith' has no attribute 'learn'\n", done.stderr


def test_rooms_that_are_called(run: Run, tmp_path: Path) -> None:
    assert tunesmith.doctor(tmp_path).checks[0].name == "python"
    assert tunesmith.generate(str(run.path), ["Anna"], max_new_tokens=2)[0].prompt == "Anna"


DOCS = [*Path(__file__).parents[1].glob("docs/*.md"), Path(__file__).parents[1] / "README.md"]
PATHS = sorted(
    {
        path
        for page in DOCS
        for path in re.findall(r"`(?:run = )?(tunesmith(?:\.\w+)+)\(", page.read_text(encoding="utf-8"))
    }
)


@pytest.mark.parametrize("path", PATHS)
def test_paths_of_the_docs_work_after_import_tunesmith(path: str) -> None:
    code = f"import tunesmith\nassert callable({path})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
