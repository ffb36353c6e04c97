"""Whether a run may go on: what counts as a change, and what does not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tunesmith import Recipe, RunError
from tunesmith.models.find import find_model
from tunesmith.run.artefacts import Result
from tunesmith.run.directory import RESULT, RunDir
from tunesmith.training.checkpoints.checkpoint import save_checkpoint
from tunesmith.training.checkpoints.resume import begun_recipe, check_recipe, finished_result, model_fingerprint
from tunesmith.training.checkpoints.state import environment, environment_changes, load_rng_state, rng_state, save_tree

RECIPE = Recipe(model={"name": "m"}, data={"path": "a.csv"}, train={"epochs": 1})


@pytest.mark.parametrize(
    "change",
    [{"train.epochs": 2}, {"train.max_steps": 9}, {"eval.every": 3}, {"save.keep": 5}, {"compare.seed": 1}],
    ids=str,
)
def test_values_that_are_safe_to_change(change: dict[str, object]) -> None:
    check_recipe(Path("run"), RECIPE, RECIPE.with_values(**change))


def test_all_other_values_are_refused_at_once() -> None:
    other = RECIPE.with_values(**{"train.seed": 8, "lora.rank": 4, "train.epochs": 2})
    with pytest.raises(RunError, match=r"train\.seed: 7 -> 8\n  lora\.rank: 16 -> 4\nChoose another --out"):
        check_recipe(Path("run"), RECIPE, other)


def write_state(folder: Path) -> None:
    (folder / "state").touch()


def test_half_a_recipe_is_not_believed_where_a_checkpoint_holds_the_whole(tmp_path: Path) -> None:
    begun = RECIPE.with_values(**{"train.seed": 8})
    run_dir = RunDir.create(tmp_path / "run")
    run_dir.write_recipe(begun)
    assert begun_recipe(run_dir) == begun
    text = run_dir.file("recipe.yaml").read_text()
    run_dir.file("recipe.yaml").write_text(text[: text.index("train:")])
    assert begun_recipe(run_dir) == begun.with_values(**{"train.seed": 7, "train.epochs": 1}), "valid, and another one"
    for step in (1, 2):
        save_checkpoint(
            run_dir.checkpoints,
            step,
            write_state,
            info={"recipe": begun.model_dump(mode="json")},
            keep=2,
            best_step=None,
            required_bytes=1,
        )
    (run_dir.checkpoints / "step-2" / "MANIFEST.json").write_text("{")
    assert begun_recipe(run_dir) == begun
    run_dir.file("recipe.yaml").write_text("")
    (run_dir.checkpoints / "step-1" / "MANIFEST.json").write_text("{")
    assert begun_recipe(run_dir) is None


def test_the_same_model_elsewhere_has_the_same_fingerprint_and_a_trained_one_another(
    tiny_llama: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    copy = Path(shutil.copytree(tiny_llama, tmp_path / "copy"))
    fingerprint = model_fingerprint(find_model(str(tiny_llama), None))
    assert model_fingerprint(find_model(str(copy), None)) == fingerprint
    weights = load_file(copy / "model.safetensors")
    save_file({name: value + 1e-3 for name, value in weights.items()}, copy / "model.safetensors", {"format": "pt"})
    assert model_fingerprint(find_model(str(copy), None)) != fingerprint


def test_a_result_counts_when_it_is_whole_and_of_the_last_step(
    tmp_path: Path, new_result: Callable[..., Result]
) -> None:
    run_dir = RunDir.create(tmp_path / "run")
    run_dir.model.mkdir()
    assert finished_result(run_dir, 5, 5) is None
    run_dir.write(new_result())
    assert finished_result(run_dir, 5, 5) == new_result()
    assert finished_result(run_dir, 5, 6) is None
    early = new_result(ended_early=True)
    run_dir.write(early)
    assert finished_result(run_dir, 5, 6) is None
    assert finished_result(run_dir, 5, 6, may_end_early=True) == early
    run_dir.write(new_result(stopped="SIGTERM"))
    assert finished_result(run_dir, 5, 5) is None
    run_dir.file(RESULT).write_text('{"steps": 5')
    assert finished_result(run_dir, 5, 5) is None


def test_a_part_of_the_environment_that_changed_is_named() -> None:
    now = environment()
    assert environment_changes(now) == []
    assert environment_changes({}) == []
    assert environment_changes(now | {"torch": "2.0.0"}) == [f"torch 2.0.0, here {torch.__version__}"]


def test_random_numbers_of_other_versions_are_refused(tmp_path: Path) -> None:
    state = rng_state()
    save_tree({**state, "torch": state["torch"][:100]}, tmp_path / "rng.safetensors")
    with pytest.raises(RunError, match="other versions of python, numpy or torch"):
        load_rng_state(tmp_path / "rng.safetensors")
