"""Every method on three architectures: trains, resumes bit for bit, merges equal to its adapter, leaves, comes back."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import tunesmith
from tunesmith.compat import quiet_transformers
from tunesmith.errors import Stopped
from tunesmith.export.merge import merge
from tunesmith.export.stage import Exported
from tunesmith.export.tuned import find_weights, load_tuned

METHODS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"rslora": True},
    "pissa": {"init": "pissa"},
    "dora": {},
    "qlora": {},
}
MODELS = ("tiny_llama", "tiny_gpt2", "tiny_gpt_neo")
"""GPT-2's matrices lie the other way round."""
QUICK = (("pissa", "tiny_llama"), ("qlora", "tiny_llama"))
CASES = [
    pytest.param(method, model, marks=() if (method, model) in QUICK else pytest.mark.slow, id=f"{method}-{model}")
    for method in METHODS
    for model in MODELS
]


def recipe_of(model: Path, method: str, shows_csv: Path) -> tunesmith.Recipe:
    if method == "qlora" and importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed: pip install 'tunesmith[qlora]'")
    train = {
        "method": method if method in ("lora", "dora", "qlora") else "lora",
        "max_steps": 4,
        "max_length": 64,
        "learning_rate": 5e-3,
        "tokens_per_step": 256,
        "rehearse": False,
    }
    return tunesmith.Recipe(
        model={"name": str(model)},
        data={"path": str(shows_csv), "text": "description", "max_rows": 60, "eval_fraction": 0.2},
        train=train,
        lora={"rank": 4, "alpha": 8, **METHODS[method]},
        save={"every": 2},
    )


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return torch.as_tensor(model(input_ids=torch.arange(1, 60)[None]).logits)


@pytest.mark.parametrize(("method", "model"), CASES)
def test_every_method_and_model(
    method: str,
    model: str,
    shows_csv: Path,
    tmp_path: Path,
    leave: Callable[..., Exported],
    request: pytest.FixtureRequest,
) -> None:
    recipe, quiet = recipe_of(request.getfixturevalue(model), method, shows_csv), Console(quiet=True)
    whole = tunesmith.train(recipe, out=tmp_path / "whole", console=quiet).dir
    steps = iter(range(99))
    with pytest.raises(Stopped):
        tunesmith.train(recipe, out=tmp_path / "parted", stop=lambda: next(steps) >= 1, console=quiet)
    parted = tunesmith.train(recipe, out=tmp_path / "parted", resume=True, console=quiet).dir
    first, second = (load_file(run_dir.model / "adapter_model.safetensors") for run_dir in (whole, parted))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    tuned = load_tuned(whole, find_weights(whole, recipe, force=False))
    before = logits(tuned)
    merged, change = merge(tuned)
    assert change > 1e-4
    assert float((logits(merged) - before).abs().max()) < 1e-5
    done = leave(whole, "safetensors")
    loaded, _ = tunesmith_load(done.path)
    assert float((logits(loaded) - before).abs().max()) < 1e-5
    if method == "qlora":
        assert any("Trained on a base in 4 bits (loss " in note for note in done.record.notes)


def tunesmith_load(path: Path) -> Any:
    from tunesmith.models.load import load_for_generation

    return load_for_generation(str(path))


def test_pissa_is_saved_as_an_ordinary_adapter_of_the_untouched_base(
    tiny_llama: Path, shows_csv: Path, tmp_path: Path
) -> None:
    """peft puts it on a fresh base, which knows nothing of how it began."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    recipe = recipe_of(tiny_llama, "pissa", shows_csv)
    run_dir = tunesmith.train(recipe, out=tmp_path / "run", console=Console(quiet=True)).dir
    with quiet_transformers():
        base = AutoModelForCausalLM.from_pretrained(tiny_llama)
        adapted = PeftModel.from_pretrained(base, run_dir.model).eval()
    assert adapted.peft_config["default"].r == 8
    assert adapted.peft_config["default"].init_lora_weights is True
    own = load_tuned(run_dir, find_weights(run_dir, recipe, force=False))
    assert float((logits(adapted) - logits(own)).abs().max()) < 1e-6
    result = run_dir.read_json("result.json")
    assert result["eval_loss"] < result["eval_loss_base"]
