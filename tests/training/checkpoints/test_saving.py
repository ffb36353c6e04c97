"""The tuned model is written in the type of its base where nothing that was measured is lost, and says so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors import safe_open

import tunesmith
from tunesmith.run.directory import RunDir
from tunesmith.training.checkpoints.saving import rounding_is_free, weights_in

Trained = Callable[..., tuple[RunDir, str]]


@pytest.fixture(scope="module")
def half_llama(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[torch.dtype], Path]:
    """The tiny Llama with files of 16 bits."""
    from transformers import LlamaForCausalLM

    def make(dtype: torch.dtype) -> Path:
        path = tmp_path_factory.mktemp("half") / "model"
        shutil.copytree(tiny_llama, path)
        LlamaForCausalLM.from_pretrained(tiny_llama).to(dtype).save_pretrained(path)
        return path

    return make


@pytest.fixture
def trained(shows_csv: Path, tmp_path: Path) -> Trained:
    """trained(model, rate, save.dtype, **more): a run of eight steps, and what its log says of the saving."""

    def run(model: Path, rate: float, dtype: str = "auto", **more: Any) -> tuple[RunDir, str]:
        data = {"path": str(shows_csv), "text": "description", "max_rows": 60, "eval_fraction": 0.3, **more}
        train = {"learning_rate": rate, "max_steps": 8, "tokens_per_step": 512, "rehearse": False}
        asked: dict[str, Any] = {"model": {"name": str(model)}, "data": data, "train": train, "save": {"dtype": dtype}}
        done = tunesmith.train(tunesmith.Recipe(**asked), out=tmp_path / "run", console=Console(quiet=True))
        log = (done.path / "log.txt").read_text(encoding="utf-8")
        return done.dir, next(line for line in log.splitlines() if "saved " in line)

    return run


def dtypes(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return {str(file.get_tensor(name).dtype) for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_base_of_16_bits_is_saved_as_it_was(
    half_llama: Callable[[torch.dtype], Path], trained: Trained, dtype: torch.dtype
) -> None:
    name = str(dtype).removeprefix("torch.")
    run_dir, said = trained(half_llama(dtype), 1e-2)
    assert dtypes(run_dir.model) == {f"torch.{name}"}
    assert json.loads((run_dir.model / "config.json").read_text())["dtype"] == name
    assert f"({name}, " in said
    assert "before rounding" in said


def test_the_scores_are_those_of_what_was_written(
    half_llama: Callable[[torch.dtype], Path], trained: Trained, tmp_path: Path
) -> None:
    run_dir, _ = trained(half_llama(torch.bfloat16), 1e-2, test_fraction=0.2)
    result, metrics = run_dir.read_json("result.json"), (run_dir.path / "metrics.jsonl").read_text().splitlines()
    last = next(line for line in map(json.loads, reversed(metrics)) if "eval_loss" in line)
    assert result["eval_loss"] != last["eval_loss"]
    assert result["eval_loss"] == pytest.approx(last["eval_loss"], rel=2e-3)
    from tunesmith import fast
    from tunesmith.data import prepare
    from tunesmith.evaluate import evaluate
    from tunesmith.models.load import load_for_generation

    model, tokenizer = load_for_generation(str(run_dir.path), device="cpu", dtype="float32")
    fast.apply(model)
    data = prepare(run_dir.recipe().data, tokenizer, run_dir.read_json("plan.json")["max_length"])
    assert evaluate(model, data.eval, max_tokens=2048).loss == pytest.approx(result["eval_loss"], rel=1e-6)
    assert evaluate(model, data.test, max_tokens=2048).loss == pytest.approx(result["test_loss"], rel=1e-6)


def test_updates_that_rounding_would_undo_are_kept_in_float32(
    half_llama: Callable[[torch.dtype], Path], trained: Trained
) -> None:
    run_dir, said = trained(half_llama(torch.bfloat16), 2e-6)
    assert dtypes(run_dir.model) == {"torch.float32"}
    assert "would lose small updates" in said


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_the_recipe_says_is_done(half_llama: Callable[[torch.dtype], Path], trained: Trained, dtype: str) -> None:
    run_dir, _ = trained(half_llama(torch.bfloat16), 2e-6, dtype)
    assert dtypes(run_dir.model) == {f"torch.{dtype}"}


def test_a_base_in_float32_stays_so(tiny_llama: Path, trained: Trained) -> None:
    run_dir, _ = trained(tiny_llama, 1e-3)
    assert dtypes(run_dir.model) == {"torch.float32"}


@pytest.mark.parametrize(
    ("base", "tuned", "rounded", "free"),
    [
        (5.0, 4.0, 3.999, True),
        (5.0, 4.0, 4.007, True),
        (5.0, 4.0, 4.009, False),
        (4.01, 4.0, 4.001, False),
        (4.01, 4.0, 4.0001, True),
        (3.9, 4.0, 4.007, True),
        (None, 4.0, 4.009, False),
        (5.0, 4.0, float("nan"), False),
    ],
)
def test_what_rounding_may_cost(base: float | None, tuned: float, rounded: float, free: bool) -> None:
    assert rounding_is_free(base, tuned, rounded) == free


@pytest.mark.parametrize("held", [False, True])
def test_weights_are_as_before_afterwards(held: bool) -> None:
    model = torch.nn.Linear(5, 7)
    before = model.weight.detach().clone()
    with weights_in(model, "bfloat16", held=held):
        assert model.weight.dtype == (torch.bfloat16 if held else torch.float32)
        assert torch.equal(model.weight.float(), before.bfloat16().float())
    assert torch.equal(model.weight, before)
