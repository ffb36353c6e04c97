"""What is wrong with a recipe's data or model is told before torch is loaded, and leaves no folder."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import tunesmith
from tunesmith.errors import DataError, ModelError, PlanError, RunError, TunesmithError

CALL = """
import sys
from tunesmith.cli import main
try:
    main()
except SystemExit as end:
    print(f"exit {end.code}, torch {'torch' in sys.modules}", file=sys.stderr)
"""
GOOD = "text: description"


def refused(
    tmp_path: Path, shows_csv: Path, *, model: str, data: str = GOOD, path: str | None = None, command: str = "train"
) -> str:
    """Standard error of a command that must be refused early."""
    recipe = f"model: {{name: {model}}}\ndata: {{path: {path or shows_csv}, {data}}}\n"
    (tmp_path / "r.yaml").write_text(recipe, encoding="utf-8")
    call = [sys.executable, "-c", CALL, command, "r.yaml"]
    done = subprocess.run(call, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stderr.splitlines()[-1:] == ["exit 2, torch False"], done.stderr
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["r.yaml"]
    return done.stderr


@pytest.mark.parametrize("command", ["train", "plan", "data"])
def test_a_misspelt_column(command: str, tmp_path: Path, shows_csv: Path, tiny_llama: Path) -> None:
    told = refused(tmp_path, shows_csv, model=str(tiny_llama), data="text: descripton", command=command)
    assert "no column 'descripton' (data.text). Did you mean 'description'?" in told


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("prompt: titel, completion: description", "no column 'titel' (data.prompt). Did you mean 'title'?"),
        ('text: "{title}: {descripton}"', "no column 'descripton' (data.text)"),
        ("text: description, slice: gener", "no column 'gener' (data.slice)"),
        ("text: description, group: gener", "no column 'gener' (data.group)"),
        ("text: description, eval_path: gone.csv", "gone.csv: no such file"),
    ],
)
def test_its_siblings(data: str, told: str, tmp_path: Path, shows_csv: Path, tiny_llama: Path) -> None:
    assert told in refused(tmp_path, shows_csv, model=str(tiny_llama), data=data)


@pytest.mark.parametrize("command", ["train", "plan", "data"])
def test_a_column_that_must_be_named(command: str, tmp_path: Path, shows_csv: Path, tiny_llama: Path) -> None:
    told = refused(tmp_path, shows_csv, model=str(tiny_llama), data="eval_fraction: 0.2", command=command)
    assert "no column was chosen and 4 hold text" in told
    assert "Set data.text: description" in told


def test_a_missing_file(tmp_path: Path, shows_csv: Path, tiny_llama: Path) -> None:
    assert "gone.csv: no such file" in refused(tmp_path, shows_csv, model=str(tiny_llama), path="gone.csv")


@pytest.mark.parametrize("model", ["./gone", "smollm2-135", "nobody/nothing", "gone.gguf"])
def test_an_unknown_model(model: str, tmp_path: Path, shows_csv: Path) -> None:
    assert f"model {model}: " in refused(tmp_path, shows_csv, model=model)


def test_files_that_are_held_out_need_no_column_of_the_split(tmp_path: Path, shows_csv: Path) -> None:
    from tunesmith.data.rows.columns import check_columns
    from tunesmith.recipe import DataSection

    (tmp_path / "held.csv").write_text("description\nA play.\n", encoding="utf-8")
    section = DataSection(path=str(shows_csv), text="description", group="genre", eval_path=str(tmp_path / "held.csv"))
    check_columns(section)
    with pytest.raises(DataError, match=r"held\.csv: no column 'genre' \(data\.slice\)"):
        check_columns(section.model_copy(update={"slice": "genre"}))


def _recipe(model: Path, shows_csv: Path, **train: object) -> tunesmith.Recipe:
    return tunesmith.Recipe(
        model={"name": str(model)},
        data={"path": str(shows_csv), "text": "description", "max_rows": 40},
        train={"max_steps": 1, "max_length": 64, "rehearse": False, **train},
    )


@pytest.mark.parametrize("train", [{"cuda_graphs": True}, {"loop": "reference"}])
def test_a_refused_plan_leaves_no_folder(
    train: dict[str, object], tmp_path: Path, tiny_llama: Path, shows_csv: Path
) -> None:
    with pytest.raises(PlanError):
        tunesmith.train(
            _recipe(tiny_llama, shows_csv, **train), out=tmp_path / "runs" / "a", console=Console(quiet=True)
        )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_there_stays(tmp_path: Path, tiny_llama: Path, shows_csv: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(PlanError):
        tunesmith.train(
            _recipe(tiny_llama, shows_csv, loop="reference"), out=tmp_path / "a", console=Console(quiet=True)
        )
    assert (tmp_path / "a").is_dir()


def test_a_folder_with_other_things_is_refused_before_the_data_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.doc").touch()
    with pytest.raises(RunError, match="is not empty and holds no run"):
        tunesmith.train(
            tunesmith.Recipe(model="gone", data="gone.csv"), out=tmp_path / "a", console=Console(quiet=True)
        )


def test_the_errors_are_those_of_the_stage(tmp_path: Path, shows_csv: Path) -> None:
    for text, kind in (("description", ModelError), ("x", DataError)):
        recipe = tunesmith.Recipe(model="./gone", data={"path": str(shows_csv), "text": text})
        with pytest.raises(TunesmithError) as caught:
            tunesmith.train(recipe, out=tmp_path / "a", console=Console(quiet=True))
        assert type(caught.value) is kind, "the data first: a model may have to be fetched"


@pytest.mark.parametrize(
    "words", [["generate"], ["generate", "--file", "prompts.txt"], ["chat"], ["eval", "--data", "rows.txt"]]
)
def test_that_libraries_load_is_said_before_they_do(words: list[str], tmp_path: Path) -> None:
    """Loading takes up to twelve seconds where files are cold, and nobody waits for five without a word."""
    for name in ("prompts.txt", "rows.txt"):
        (tmp_path / name).write_text("One fine morning\n", encoding="utf-8")
    model = tmp_path / "no-model"
    model.mkdir()
    command = [sys.executable, "-X", "importtime", "-m", "tunesmith", words[0], str(model), *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 2
    said = done.stderr.index("loading torch and transformers")
    assert re.search(r"\| +torch\n", done.stderr[said:]), "it is loaded after all"
    assert not re.search(r"\| +torch\n", done.stderr[:said])
