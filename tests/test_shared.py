"""What is given away tells no place of the machine that made it, and is found again wherever it goes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import tunesmith
from tunesmith import ModelError, Recipe
from tunesmith.api import Run
from tunesmith.models.find import find_model

QUIET = Console(quiet=True)


def recipe_for(model: str | Path, data: Path, method: str) -> Recipe:
    return Recipe(
        model={"name": str(model)},
        data={"path": str(data), "text": "description", "max_rows": 60, "eval_fraction": 0.2},
        train={"method": method, "max_steps": 2, "tokens_per_step": 512, "max_length": 128, "rehearse": False},
        compare={"prompts": ["One"], "num_samples": 2, "max_new_tokens": 4},
    )


@pytest.mark.parametrize("method", ["full", "lora"])
def test_full_paths_stay_where_a_resume_reads_them(
    tiny_llama: Path, shows_csv: Path, tmp_path: Path, method: str
) -> None:
    """recipe.yaml, and what a checkpoint repeats of it, keep what the user wrote; nothing else does."""
    mine = tmp_path / "private" / "mine"
    shutil.copytree(tiny_llama, mine / "base")
    shutil.copy(shows_csv, mine / "shows.csv")
    recipe = recipe_for(mine / "base", mine / "shows.csv", method)
    run = tunesmith.train(recipe, out=tmp_path / "private" / "run", console=QUIET)
    run.compare()
    run.report()
    places = [b"private", str(Path.home()).encode(), str(Path(tunesmith.__file__).parent).encode()]
    files = [path for path in run.path.rglob("*") if path.is_file()]
    telling = {str(path.relative_to(run.path)) for path in files if any(map(path.read_bytes().count, places))}
    assert telling == {"recipe.yaml", "checkpoints/step-2/MANIFEST.json"}


@pytest.fixture
def project(tiny_llama: Path, shows_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with models/base and runs/lora, tuned from that with a relative name; then moved, and left."""
    shutil.copytree(tiny_llama, tmp_path / "first" / "models" / "base")
    monkeypatch.chdir(tmp_path / "first")
    tunesmith.train(recipe_for("models/base", shows_csv, "lora"), out="runs/lora", console=QUIET)
    monkeypatch.chdir(tmp_path)
    return (tmp_path / "first").rename(tmp_path / "moved")


def test_a_run_finds_its_base_from_any_folder_and_after_a_move(project: Path) -> None:
    base = (project / "models" / "base").resolve()
    for name in ("runs/lora", "runs/lora/model"):
        assert Path(find_model(str(project / name)).path).resolve() == base
    assert Path(find_model("moved/runs/lora").path).resolve() == base
    assert isinstance(Run(project / "runs" / "lora").generate("One", max_new_tokens=2), str)


def test_an_adapter_that_is_given_away_finds_its_base_beside_it(project: Path, tmp_path: Path) -> None:
    given = shutil.copytree(project / "runs" / "lora" / "model", tmp_path / "given" / "adapter")
    with pytest.raises(ModelError, match=r"its base model, '\./base', cannot be found") as caught:
        find_model(str(given))
    assert "base_model_name_or_path" in str(caught.value)
    shutil.copytree(project / "models" / "base", tmp_path / "given" / "base")
    assert Path(find_model(str(given)).path).resolve() == (tmp_path / "given" / "base").resolve()


def test_a_local_base_is_never_taken_for_a_hub_model(
    tiny_llama: Path, shows_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_llama, tmp_path / "gpt2")
    run = tunesmith.train(recipe_for(tmp_path / "gpt2", shows_csv, "lora"), out=tmp_path / "run", console=QUIET)
    given = shutil.copytree(run.dir.model, tmp_path / "given" / "adapter")

    def ask(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("tunesmith.models.find.snapshot", ask)
    with pytest.raises(ModelError, match=r"'\./gpt2', cannot be found"):
        find_model(str(given))
