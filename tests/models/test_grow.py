"""A tokenizer with more tokens than its model has rows: rows are added, trained, saved, and leave."""

from __future__ import annotations

import csv
import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import tunesmith
from tunesmith.compat import quiet_transformers
from tunesmith.errors import ModelError, RecipeError, Stopped
from tunesmith.export.job import Asked
from tunesmith.export.stage import export
from tunesmith.export.tuned import find_weights, load_tuned
from tunesmith.models.adapters import attach_lora
from tunesmith.models.find import find_model
from tunesmith.models.grow import add_rows, find_asked
from tunesmith.models.load import load_for_generation, load_model
from tunesmith.recipe import LoraSection, ModelSection, Recipe

ADDED = ("<lighthouse>", "<harbour>", "<end>")
QUIET = Console(quiet=True)


def add_tokens(model: Path, path: Path) -> Path:
    """A copy whose tokenizer has three more tokens, one of them the end; the model stays as it is."""
    from transformers import AutoTokenizer

    shutil.copytree(model, path)
    backend = AutoTokenizer.from_pretrained(path)
    backend.add_tokens(list(ADDED[:2]))
    backend.add_special_tokens({"eos_token": ADDED[2]})
    backend.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def tied(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_tokens(tiny_llama, tmp_path_factory.mktemp("tied") / "model")


@pytest.fixture(scope="session")
def untied(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoConfig, AutoModelForCausalLM

    path = add_tokens(tiny_llama, tmp_path_factory.mktemp("untied") / "model")
    torch.manual_seed(1)
    config = AutoConfig.from_pretrained(path)
    config.tie_word_embeddings = False
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def marked_csv(shows_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shows, each of which begins and ends with an added token."""
    path = tmp_path_factory.mktemp("marked") / "shows.csv"
    with shows_csv.open(encoding="utf-8") as source, path.open("w", encoding="utf-8") as target:
        writer = csv.writer(target)
        writer.writerow(["text"])
        writer.writerows([f"<lighthouse>{row['description']}<harbour>"] for row in csv.DictReader(source))
    return path


def recipe_of(model: Path, data: Path, method: str = "full", **model_values: Any) -> Recipe:
    if method == "qlora" and importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed: pip install 'tunesmith[qlora]'")
    return Recipe(
        model={"name": str(model), "grow": True, **model_values},
        data={"path": str(data), "text": "text", "max_rows": 50, "eval_fraction": 0.2},
        train={
            "method": method,
            "max_steps": 4,
            "max_length": 64,
            "learning_rate": 1e-2,
            "tokens_per_step": 256,
            "rehearse": False,
        },
        lora={"rank": 4, "alpha": 8},
        save={"every": 2},
    )


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return torch.as_tensor(model.eval()(input_ids=torch.arange(470, 515)[None]).logits)


def weights_of(run_dir: Any) -> dict[str, torch.Tensor]:
    return load_file(next(run_dir.model.glob("*model.safetensors")))


QUICK = [("full", "tied"), ("lora", "untied")]
OTHERS = [("full", "untied"), ("lora", "tied"), ("qlora", "tied"), ("qlora", "untied")]


@pytest.mark.parametrize(
    ("method", "kind"), [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in OTHERS)]
)
def test_rows_are_trained_saved_resumed_and_leave(
    method: str, kind: str, marked_csv: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    base = request.getfixturevalue(kind)
    recipe = recipe_of(base, marked_csv, method)
    whole = tunesmith.train(recipe, out=tmp_path / "whole", console=QUIET).dir
    steps = iter(range(99))
    with pytest.raises(Stopped):
        tunesmith.train(recipe, out=tmp_path / "parted", stop=lambda: next(steps) >= 1, console=QUIET)
    parted = tunesmith.train(recipe, out=tmp_path / "parted", resume=True, console=QUIET).dir
    first, second = weights_of(whole), weights_of(parted)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert tunesmith.Run(whole.path).result["eval_loss"] < tunesmith.Run(whole.path).result["eval_loss_base"]

    tuned = load_tuned(whole, find_weights(whole, recipe, force=False))
    _check_rows_moved(tuned, base, tied=kind == "tied")
    before = logits(tuned)
    reloaded = _plainly_loaded(whole.model, base, is_adapter=method != "full")
    assert float((logits(reloaded) - before).abs().max()) < 1e-5
    done = export(whole, Asked("safetensors", "f32", out=tmp_path / "out"))
    loaded, tokenizer = load_for_generation(str(done.path))
    assert float((logits(loaded) - before).abs().max()) < 1e-5
    assert (tokenizer.num_rows, tokenizer.stop_ids) == (515, (514,))


def _check_rows_moved(tuned: Any, base: Path, *, tied: bool) -> None:
    """Of the adapter or of the whole model, in the embedding and in a head of its own."""
    start = load_model(find_asked(ModelSection(name=str(base), grow=True)))
    for name in ("get_input_embeddings", "get_output_embeddings"):
        module, before = getattr(tuned, name)(), getattr(start, name)().weight[512:]
        weight = module.token_adapter.get_merged_weights(["default"]) if hasattr(module, "token_adapter") else None
        after = (module.weight if weight is None else weight)[512:]
        moved = (after - before).abs().amax(1) > 1e-3
        fed = 3 if tied or name == "get_output_embeddings" else 2  # the end of a document is predicted alone
        assert int(moved.sum()) == fed, name
    embedding, head = tuned.get_input_embeddings(), tuned.get_output_embeddings()
    assert (embedding.weight[513] == head.weight[513]).all() == tied


def _plainly_loaded(folder: Path, base: Path, *, is_adapter: bool) -> Any:
    """With transformers and peft alone: whatever the rows held before, the adapter brings their values."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet_transformers():
        if not is_adapter:
            return AutoModelForCausalLM.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(base)
        model.resize_token_embeddings(len(AutoTokenizer.from_pretrained(folder)), mean_resizing=False)
        return PeftModel.from_pretrained(model, folder)


def test_an_adapter_is_found_again_with_its_rows_and_leaves_as_gguf(
    tied: Path, marked_csv: Path, tmp_path: Path
) -> None:
    run_dir = tunesmith.train(recipe_of(tied, marked_csv, "lora"), out=tmp_path / "run", console=QUIET).dir
    source = find_model(str(run_dir.path))
    assert (source.rows, source.path) == (515, str(tied))
    model, tokenizer = load_for_generation(str(run_dir.path))
    assert (model.config.vocab_size, tokenizer.num_rows, tokenizer.end_id) == (515, 515, 514)
    config = (run_dir.model / "adapter_config.json").read_text(encoding="utf-8")
    assert '"embed_tokens": [\n      512,\n      513,\n      514\n    ]' in config
    card = (run_dir.model / "README.md").read_text(encoding="utf-8")
    assert "base.resize_token_embeddings(len(AutoTokenizer.from_pretrained(model)))" in card
    size = sum(weight.numel() for weight in weights_of(run_dir).values())
    assert size < 20_000, "three rows, not the embedding"
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("xllamacpp is not installed: pip install 'tunesmith[gguf]'")
    done = export(run_dir, Asked("gguf", "f16", out=tmp_path / "out"))
    assert done.record.vocabulary == 515
    with pytest.raises(ModelError, match=r"--adapter: .* rows for added tokens.*Leave out --adapter"):
        export(run_dir, Asked("gguf", "f16", adapter=True, out=tmp_path / "adapter"))


def test_without_it_the_error_names_the_key(
    tied: Path, tiny_llama: Path, marked_csv: Path, tmp_path: Path, shows_csv: Path
) -> None:
    recipe = recipe_of(tied, marked_csv, grow=False)
    with pytest.raises(ModelError, match=r"starts or ends is an added token; set model\.grow: true"):
        tunesmith.train(recipe, out=tmp_path / "run", console=QUIET)
    from transformers import AutoTokenizer

    plain = tmp_path / "plain"
    shutil.copytree(tiny_llama, plain)
    backend = AutoTokenizer.from_pretrained(plain)
    backend.add_tokens(list(ADDED[:2]))
    backend.save_pretrained(plain)
    with pytest.raises(ModelError, match=r"<harbour> \(id 513\), and the model has 512 .*set model\.grow: true"):
        tunesmith.train(recipe_of(plain, marked_csv, grow=False), out=tmp_path / "run", console=QUIET)


def test_nothing_grows_where_rows_suffice(tiny_llama: Path) -> None:
    source = find_asked(ModelSection(name=str(tiny_llama), grow=True))
    model = load_model(source)
    assert (source.rows, model.config.vocab_size, len(model.added_rows)) == (None, 512, 0)


def test_rows_begin_around_the_mean_the_same_each_time(tiny_llama: Path) -> None:
    first, second = load_model(find_model(str(tiny_llama))), load_model(find_model(str(tiny_llama)))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    add_rows(first, 520)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    add_rows(second, 520)
    rows, others = first.get_input_embeddings().weight.detach().split((512, 8))[::-1]
    assert torch.equal(rows, second.get_input_embeddings().weight[512:])
    assert float((rows - others.mean(0)).abs().max()) < float(others.std()) / 10


def test_a_head_with_a_bias_wants_full_training(tiny_llama: Path) -> None:
    model = load_model(find_model(str(tiny_llama)))
    add_rows(model, 515)
    head = model.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(515))
    with pytest.raises(ModelError, match=r"model\.grow: .* bias.*train\.method: full"):
        attach_lora(model, LoraSection(), "lora")


def test_an_adapter_of_a_grown_model_is_not_sharded(tied: Path, marked_csv: Path) -> None:
    values = recipe_of(tied, marked_csv, "lora").model_dump(mode="json")
    values["train"]["sharding"] = "full"
    with pytest.raises(RecipeError, match=r"model\.grow.*train\.sharding: full"):
        Recipe.parse(values)


def test_the_plan_counts_the_rows(tied: Path, marked_csv: Path) -> None:
    from tunesmith.forecast.shapes import shape_of as find_shape_of
    from tunesmith.plan import plan

    grown, before = (find_shape_of(find_asked(ModelSection(name=str(tied), grow=grow))) for grow in (True, False))
    report = plan(recipe_of(tied, marked_csv, "lora"))
    assert (report.shape.config.vocab_size, report.shape.num_added) == (515, 3)
    assert grown.num_parameters - before.num_parameters == 3 * 32
    assert report.shape.num_parameters == grown.num_parameters
