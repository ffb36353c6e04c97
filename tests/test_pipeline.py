"""The whole pipeline on a tiny model: what it writes, what it refuses, how it goes on."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

import tunesmith
from tunesmith import Recipe, RunError
from tunesmith.api import Run

QUIET = Console(quiet=True)


def recipe_for(model: Path, data: Path, **train: Any) -> Recipe:
    return Recipe(
        model={"name": str(model)},
        data={"path": str(data), "text": "description", "slice": "genre", "max_rows": 120, "eval_fraction": 0.2},
        train={"learning_rate": 5e-3, "tokens_per_step": 1024, "max_length": 256, **train},
        eval={"every": 4},
        save={"every": 4},
        compare={"prompts": ["One fine morning"], "num_samples": 8, "max_new_tokens": 12},
    )


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.safetensors"))}


@pytest.fixture(scope="module")
def finished(tiny_llama: Path, shows_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    run = tunesmith.train(recipe_for(tiny_llama, shows_csv, epochs=2), out=out, console=QUIET)
    run.compare()
    run.report()
    return run


def test_exact_contents_of_the_run_directory(finished: Run) -> None:
    names = sorted(path.name for path in finished.path.iterdir())
    assert names == [
        "checkpoints",
        "compare.json",
        "data.json",
        "log.txt",
        "metrics.jsonl",
        "model",
        "plan.json",
        "recipe.yaml",
        "report.html",
        "result.json",
        "samples.jsonl",
        "status.json",
    ]
    steps = finished.result["steps"]
    kept = sorted(int(path.name.split("-")[1]) for path in (finished.path / "checkpoints").iterdir())
    assert kept[-1] == steps
    assert 2 <= len(kept) <= 3
    assert (finished.path / "checkpoints" / f"step-{steps}" / "MANIFEST.json").is_file()
    model = {path.name for path in finished.dir.model.iterdir()}
    assert {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "README.md"} <= model


def test_result_has_the_promised_keys_and_learns(finished: Run) -> None:
    result = finished.result
    promised = {
        "train_loss",
        "eval_loss",
        "eval_loss_base",
        "eval_perplexity",
        "eval_perplexity_base",
        "eval_bits_per_byte",
        "eval_token_accuracy",
        "train_tokens",
        "train_seconds",
        "tokens_per_second",
        "samples_per_second",
        "peak_bytes",
        "steps",
        "stopped",
    }
    assert promised <= set(result)
    assert result["stopped"] is None
    assert result["eval_loss"] < result["eval_loss_base"] - 0.5
    assert result["eval_perplexity"] == pytest.approx(math.exp(result["eval_loss"]))
    data = finished.dir.read_json("data.json")
    assert result["train_tokens"] == 2 * data["splits"]["train"]["targets"]


def test_metrics_lines(finished: Run) -> None:
    lines = finished.dir.metrics()
    training = [line for line in lines if "loss" in line]
    assert [line["step"] for line in training] == list(range(1, finished.result["steps"] + 1))
    wanted = {"step", "epoch", "loss", "learning_rate", "grad_norm", "peak_bytes", "time"}
    wanted |= {"tokens_per_second", "fed_tokens_per_second"}
    assert all(wanted == set(line) for line in training)
    evaluations = [line for line in lines if "eval_loss" in line]
    assert evaluations[0]["step"] == 0
    assert evaluations[0]["eval_loss"] == finished.result["eval_loss_base"]
    assert evaluations[-1]["step"] == finished.result["steps"]
    assert training[-1]["epoch"] == pytest.approx(2)


def test_plain_transformers_loads_the_model(finished: Run) -> None:
    from transformers import pipeline

    write = pipeline("text-generation", str(finished.dir.model))
    text = write("One fine morning", max_new_tokens=5, do_sample=False)[0]["generated_text"]
    assert text.startswith("One fine morning")


def test_generate_is_deterministic(finished: Run) -> None:
    first = finished.generate("One fine morning", max_new_tokens=8)
    assert first == finished.generate("One fine morning", max_new_tokens=8)


def test_report_and_card_tell_the_story(finished: Run) -> None:
    html = (finished.path / "report.html").read_text(encoding="utf-8")
    assert "One fine morning" in html
    card = (finished.dir.model / "README.md").read_text(encoding="utf-8")
    header = yaml.safe_load(card.split("---")[1])
    assert header["library_name"] == "transformers"
    assert finished.dir.read_json("data.json")["fingerprint"] in card


def test_same_recipe_again_is_a_no_op(finished: Run) -> None:
    before = hashes(finished.dir.model)
    stamp = (finished.dir.model / "config.json").stat().st_mtime_ns
    tunesmith.train(finished.recipe, out=finished.path, console=QUIET)
    assert hashes(finished.dir.model) == before
    assert (finished.dir.model / "config.json").stat().st_mtime_ns == stamp


def test_another_recipe_is_refused_with_the_difference(finished: Run) -> None:
    other = finished.recipe.with_values(**{"train.learning_rate": 1e-3})
    with pytest.raises(RunError, match=r"train\.learning_rate: 0\.005 -> 0\.001") as caught:
        tunesmith.train(other, out=finished.path, console=QUIET)
    assert "--fresh" in str(caught.value)


def test_two_runs_of_one_recipe_are_equal(tiny_llama: Path, shows_csv: Path, tmp_path: Path) -> None:
    recipe = recipe_for(tiny_llama, shows_csv, max_steps=3)
    first = tunesmith.train(recipe, out=tmp_path / "a", console=QUIET)
    second = tunesmith.train(recipe, out=tmp_path / "b", console=QUIET)
    assert hashes(first.dir.model) == hashes(second.dir.model)


def test_more_epochs_go_on_from_the_end(tiny_llama: Path, shows_csv: Path, tmp_path: Path) -> None:
    recipe = recipe_for(tiny_llama, shows_csv, epochs=1)
    num_steps = tunesmith.train(recipe, out=tmp_path / "run", console=QUIET).result["steps"]
    longer = tunesmith.train(recipe.with_values(**{"train.epochs": 2}), out=tmp_path / "run", console=QUIET)
    assert longer.result["steps"] == 2 * num_steps
    training = [line for line in longer.dir.metrics() if "loss" in line]
    assert [line["step"] for line in training] == list(range(1, 2 * num_steps + 1))
    assert all(line["learning_rate"] > 0 for line in training)


def test_small_is_a_dry_run(tiny_gpt_neo: Path, shows_csv: Path, tmp_path: Path) -> None:
    recipe = recipe_for(tiny_gpt_neo, shows_csv).with_values(**{"data.max_rows": None})
    run = tunesmith.train(recipe, out=tmp_path / "small", small=True, console=QUIET)
    splits = run.dir.read_json("data.json")["splits"]
    assert 80 <= splits["train"]["documents"] <= 120
    assert 15 <= splits["eval"]["documents"] <= 25


def test_lora_writes_an_adapter(tiny_llama: Path, shows_csv: Path, tmp_path: Path) -> None:
    run = tunesmith.train(recipe_for(tiny_llama, shows_csv, method="lora"), out=tmp_path / "lora", console=QUIET)
    names = {path.name for path in run.dir.model.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= names
    assert "model.safetensors" not in names
    assert run.result["eval_loss"] < run.result["eval_loss_base"]
    config = json.loads((run.dir.model / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == f"./{tiny_llama.name}"
    assert run.generate("One", max_new_tokens=4) is not None


def test_accumulation_changes_nothing_but_rounding(tiny_llama: Path, shows_csv: Path, tmp_path: Path) -> None:
    losses = []
    for name, micro in (("whole", 1024), ("parts", 150)):
        recipe = recipe_for(tiny_llama, shows_csv, max_steps=4, micro_batch_tokens=micro)
        run = tunesmith.train(recipe, out=tmp_path / name, console=QUIET)
        losses.append([line["loss"] for line in run.dir.metrics() if "loss" in line])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert losses[0][0] == pytest.approx(losses[1][0], abs=1e-6)


def test_unknown_model_writes_nothing(shows_csv: Path, tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path / "no-such-model", shows_csv)
    with pytest.raises(tunesmith.ModelError):
        tunesmith.train(recipe, out=tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "name",
    ["netflix-gpt-neo-125m", "netflix-gpt-neo-1.3b", "netflix-gpt-neo-2.7b", "lora-gpt-j", "lora-falcon-7b"],
)
def test_shipped_recipes_run_on_a_local_model(name: str, tiny_gpt_neo: Path, shows_csv: Path, tmp_path: Path) -> None:
    path = Path(__file__).parents[1] / "recipes" / f"{name}.yaml"
    here = [f"model.name={tiny_gpt_neo}", f"data.path={shows_csv}", "data.max_rows=60", "train.max_steps=2"]
    run = tunesmith.train(path, out=tmp_path / "run", overrides=[*here, "train.max_length=512"], console=QUIET)
    assert run.result["steps"] == 2
    assert run.result["eval_loss"] < run.result["eval_loss_base"]


def test_nothing_is_done_twice_at_a_start(
    tiny_llama: Path, shows_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is found once, its tokenizer read once, rows compared once, and one plan is made."""
    calls: Counter[str] = Counter()

    def count(where: str, name: str) -> None:
        module = import_module(where)
        inner = getattr(module, name)

        def counting(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return inner(*args, **kwargs)

        monkeypatch.setattr(module, name, counting)

    for where, name in (
        ("tunesmith.models.grow", "find_model"),
        ("tunesmith.forecast.shapes", "find_model"),
        ("tunesmith.models.tokenizer", "load_tokenizer"),
        ("tunesmith.data.prepare", "near_duplicate_groups"),
        ("tunesmith.audit.rows", "near_duplicate_groups"),
        ("tunesmith.plan", "make_plan"),
    ):
        count(where, name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tunesmith.train(recipe_for(tiny_llama, shows_csv, max_steps=1), out=tmp_path / "run", console=QUIET)
    assert calls == {"find_model": 1, "load_tokenizer": 1, "near_duplicate_groups": 1, "make_plan": 1}
