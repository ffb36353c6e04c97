"""Runs that are exported: small, trained for a few steps at a rate that changes them visibly."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import tunesmith
from tunesmith.export.job import Asked
from tunesmith.export.stage import Exported, export
from tunesmith.run.directory import RunDir


@pytest.fixture(scope="session")
def tune(shows_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RunDir]:
    """tune(model, **values by section): 48 training and 12 held-out shows, 4 steps."""

    def call(model: Path, **sections: Any) -> RunDir:
        data = {"path": str(shows_csv), "text": "description", "max_rows": 60, "eval_fraction": 0.2}
        train = {
            "method": "lora",
            "max_steps": 4,
            "max_length": 128,
            "learning_rate": 5e-3,
            "tokens_per_step": 512,
            "rehearse": False,
        }
        recipe = tunesmith.Recipe(
            model={"name": str(model)},
            data={**data, **sections.pop("data", {})},
            train={**train, **sections.pop("train", {})},
            lora={"rank": 4, "alpha": 8, **sections.pop("lora", {})},
            **sections,
        )
        out = tmp_path_factory.mktemp("export") / "shows"
        return tunesmith.train(recipe, out=out, console=Console(quiet=True)).dir

    return call


@pytest.fixture(scope="session")
def loud_llama(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama with weights so large that its attention decides what it predicts."""
    from safetensors.torch import load_file, save_file

    path = Path(shutil.copytree(tiny_llama, tmp_path_factory.mktemp("loud") / "model"))
    weights = load_file(path / "model.safetensors")
    louder = {name: weight * (8 if weight.dim() > 1 else 1) for name, weight in weights.items()}
    save_file(louder, path / "model.safetensors", metadata={"format": "pt"})
    return path


@pytest.fixture(scope="session")
def lora_run(tune: Callable[..., RunDir], loud_llama: Path) -> RunDir:
    """An adapter of the loud Llama. For reading alone."""
    return tune(loud_llama)


@pytest.fixture
def leave(tmp_path: Path) -> Callable[..., Exported]:
    """leave(run, format, **asked): exported to a folder of the test's own."""

    def call(run_dir: RunDir, format: Any, **asked: Any) -> Exported:
        return export(run_dir, Asked(format, **{"out": tmp_path / "out", **asked}))

    return call
