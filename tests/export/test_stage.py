"""From a run to a folder that plain transformers loads; and what is refused."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

import tunesmith
from tunesmith.errors import ModelError, RecipeError, RunError, Stopped
from tunesmith.export.job import Asked
from tunesmith.export.merge import merge
from tunesmith.export.safetensors import check_tokenizer
from tunesmith.export.stage import Exported, check_can_leave, check_recipe, export
from tunesmith.models.find import find_model
from tunesmith.models.load import load_model
from tunesmith.models.tokenizer import TextTokenizer
from tunesmith.recipe import Recipe
from tunesmith.run.artefacts import Export
from tunesmith.run.directory import RunDir

Leave = Callable[..., Exported]
Tune = Callable[..., RunDir]


@pytest.fixture
def own_run(lora_run: RunDir, tmp_path: Path) -> RunDir:
    """A copy of the run that a test may change."""
    return RunDir.open(shutil.copytree(lora_run.path, tmp_path / "shows"))


def test_an_adapter_leaves_as_a_whole_model(lora_run: RunDir, leave: Leave) -> None:
    done = leave(lora_run, "safetensors")
    files = {file.name for file in done.path.iterdir()}
    assert {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json"} < files
    assert {"README.md", "EXPORT.json"} < files
    assert done.address == str(done.path)
    values = json.loads((done.path / "EXPORT.json").read_text())
    record = Export.parse(values, "EXPORT.json")
    assert record == done.record
    assert (record.format, record.quant, record.architecture) == ("safetensors", "f32", "LlamaForCausalLM")
    assert (record.method, record.weights, record.rows) == ("lora", "model", "held-out rows")
    assert record.merged_change is not None
    assert record.merged_change > 0.001
    (trip,) = record.round_trips
    assert trip.passed
    assert trip.largest_difference < 1e-5
    assert set(record.files) == files - {"README.md", "EXPORT.json"}


def test_it_writes_what_the_run_writes(lora_run: RunDir, leave: Leave) -> None:
    from transformers import pipeline

    done = leave(lora_run, "safetensors")
    write = pipeline("text-generation", str(done.path))
    there = write("One fine morning", max_new_tokens=12, do_sample=False)[0]["generated_text"]
    here = tunesmith.generate(str(lora_run.path), ["One fine morning"], max_new_tokens=12, temperature=0)[0]
    assert there.startswith("One fine morning" + here.text)


def test_the_card_says_how_it_did(lora_run: RunDir, leave: Leave) -> None:
    card = (leave(lora_run, "safetensors", quant="bf16").path / "README.md").read_text()
    assert "library_name: transformers" in card
    assert "loaded again and compared on held-out rows before it was called done" in card
    assert "bf16 costs" in card
    assert "same likeliest token 100.0%" in card


def test_by_default_it_lies_in_the_run(own_run: RunDir) -> None:
    done = export(own_run, Asked("safetensors"))
    assert done.path == own_run.path / "export" / "safetensors"
    with pytest.raises(RunError, match=r"holds an export already. Replace it with --force"):
        export(own_run, Asked("safetensors"))
    assert export(own_run, Asked("safetensors", force=True)).path == done.path


def test_all_weights_leave(tiny_run: RunDir, leave: Leave) -> None:
    record = leave(tiny_run, "safetensors").record
    assert record.method == "full"
    assert record.merged_change is not None
    assert record.merged_change > 0.01


def test_folded_for_engines_that_know_gpt2(tune: Tune, tiny_gpt_neo: Path, leave: Leave) -> None:
    record = leave(tune(tiny_gpt_neo), "safetensors", fold=True).record
    assert record.architecture == "GPT2LMHeadModel"
    assert record.context_length == 8  # its window
    assert record.round_trips[0].passed


# -------------------------------------------------------------------------------------------------------------- refused


def test_a_merge_that_equals_the_base(own_run: RunDir, leave: Leave) -> None:
    path = own_run.model / "adapter_model.safetensors"
    weights = {name: w * 0 if "lora_B" in name else w for name, w in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"the merged model equals its base"):
        leave(own_run, "safetensors")


def test_nothing_is_left_of_a_refused_export(own_run: RunDir, tmp_path: Path, leave: Leave) -> None:
    test_a_merge_that_equals_the_base(own_run, leave)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shows"]


def test_an_adapter_on_another_base(tune: Tune, tiny_llama: Path, tmp_path: Path, leave: Leave) -> None:
    base = Path(shutil.copytree(tiny_llama, tmp_path / "base"))
    run_dir = tune(base)
    weights = load_file(base / "model.safetensors")
    save_file({name: weight + 0.01 for name, weight in weights.items()}, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        ModelError, match=r"trained on other weights than those of .*base \(fingerprint \w+, found \w+\)"
    ):
        leave(run_dir, "safetensors")


def test_a_run_that_did_not_end_names_the_checkpoint(tiny_llama: Path, shows_csv: Path, tmp_path: Path) -> None:
    recipe = Recipe(
        model={"name": str(tiny_llama)},
        data={"path": str(shows_csv), "text": "description", "max_rows": 60, "eval_fraction": 0.2},
        train={"method": "lora", "max_steps": 8, "max_length": 64, "learning_rate": 5e-3, "tokens_per_step": 256},
        lora={"rank": 4},
    )
    path, steps = tmp_path / "run", iter(range(99))
    with pytest.raises(Stopped):
        tunesmith.train(recipe, out=path, stop=lambda: next(steps) > 3, console=Console(quiet=True))
    run_dir = RunDir.open(path)
    step = next(run_dir.checkpoints.glob("step-*")).name
    with pytest.raises(
        RunError, match=rf"not finished; its newest checkpoint is {step} of 8. Finish it with: .*--force"
    ):
        export(run_dir, Asked("safetensors"))
    record = export(run_dir, Asked("safetensors", force=True)).record
    assert record.weights == f"checkpoints/{step}"
    assert record.round_trips[0].passed


def test_a_full_disk(lora_run: RunDir, leave: Leave, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 1000))
    with pytest.raises(RunError, match=r"takes up to .*, and 1.00 kB are free|takes up to .* free there"):
        leave(lora_run, "safetensors")


def test_a_folder_that_holds_something_else(lora_run: RunDir, tmp_path: Path, leave: Leave) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("mine")
    with pytest.raises(RunError, match=r"is not empty and holds no export"):
        leave(lora_run, "safetensors", force=True)
    assert (tmp_path / "out" / "letter.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"format": "safetensors", "quant": "q8_0"}, "expected one of f32, f16, bf16"),
        ({"format": "hub"}, "say where it goes: --repo OWNER/NAME"),
        ({"format": "gguf", "repo": "anna/shows"}, "only --format hub is uploaded"),
        ({"format": "safetensors", "adapter": True}, "RUN/model is that adapter already"),
        ({"format": "gguf", "fold": True}, "folded where that is needed"),
        ({"format": "safetensors", "fold": True}, "LlamaForCausalLM needs none"),
    ],
)
def test_what_does_not_go_together(lora_run: RunDir, asked: dict[str, Any], told: str) -> None:
    with pytest.raises((ModelError, RunError), match=told):
        export(lora_run, Asked(**asked))


def test_weights_too_large_for_f16(own_run: RunDir, leave: Leave) -> None:
    path = own_run.model / "adapter_model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if "lora_B" in name)
    weights[name][0] = 1e7
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"a weight is too large for f16. Use --quant bf16 or f32"):
        leave(own_run, "safetensors", quant="f16")


@pytest.mark.parametrize("what", ["EOS", "chat template", "vocabulary", "tokens of"])
def test_a_tokenizer_that_differs(what: str, lora_run: RunDir, leave: Leave, tokenizer: TextTokenizer) -> None:
    from transformers import AutoTokenizer

    folder = leave(lora_run, "safetensors").path
    loaded = AutoTokenizer.from_pretrained(folder)
    check_tokenizer(folder, loaded, tokenizer, ["A boy"])
    if what == "EOS":
        loaded.eos_token = "a"
    elif what == "chat template":
        loaded.chat_template = "{{ messages }}"
    elif what == "vocabulary":
        loaded.add_tokens(["<more>"])
    else:
        loaded.add_tokens(["boy"])
    with pytest.raises(ModelError, match=rf"not the run's: .*{what}"):
        check_tokenizer(folder, loaded, tokenizer, ["A boy"])


def test_a_vocabulary_that_shrank(lora_run: RunDir, leave: Leave, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is loaded again with fewer rows than the run trained; nothing is left of it."""
    from tunesmith.export import directory

    load_plain = directory.load_plain

    def shrunk(folder: Path) -> tuple[Any, Any]:
        model, tokenizer = load_plain(folder)
        model.resize_token_embeddings(500)
        return model, tokenizer

    monkeypatch.setattr(directory, "load_plain", shrunk)
    with pytest.raises(ModelError, match=r"the embedding has 500 rows after loading, expected 512: the vocabulary"):
        leave(lora_run, "safetensors")


def test_an_architecture_without_a_way_out() -> None:
    with pytest.raises(
        ModelError, match=r"llama.cpp runs no OPTForCausalLM that is known here. GGUF is written for: Llama"
    ):
        check_can_leave("OPTForCausalLM", None, Asked("gguf"))


# -------------------------------------------------------------------------------------------------- named by the recipe


def test_a_recipe_may_name_an_export(tune: Tune, tiny_llama: Path) -> None:
    run_dir = tune(tiny_llama, export={"format": "safetensors", "quant": "bf16"})
    assert (run_dir.path / "export" / "safetensors-bf16" / "EXPORT.json").is_file()


def test_which_is_checked_before_training(tune: Tune, tiny_llama: Path) -> None:
    with pytest.raises(ModelError, match=r"--quant q4_0: expected one of f32, f16, bf16"):
        tune(tiny_llama, export={"format": "safetensors", "quant": "q4_0"})


def test_what_gpt_neo_loses_as_gguf_is_told_before(tiny_gpt_neo: Path, new_recipe: Callable[..., Recipe]) -> None:
    pytest.importorskip("xllamacpp")
    recipe = new_recipe().with_values(**{"export.format": "gguf"})
    told = check_recipe(recipe, str(tiny_gpt_neo))
    assert told == "export: as GGUF, GPTNeoForCausalLM reads 8 tokens at most (its local window)"


def test_rank_zero(new_recipe: Callable[..., Recipe]) -> None:
    with pytest.raises(RecipeError, match=r"lora.rank: Input should be greater than 0 \(found 0\)"):
        new_recipe().with_values(**{"lora.rank": 0})


def test_the_merged_model_is_the_adapter(lora_run: RunDir) -> None:
    from tunesmith.export.tuned import find_weights, load_tuned

    tuned = load_tuned(lora_run, find_weights(lora_run, lora_run.recipe(), force=False))
    ids = torch.arange(1, 60)[None]
    with torch.no_grad():
        before = tuned(input_ids=ids).logits
        base = load_model(find_model(lora_run.recipe().model.name))(input_ids=ids).logits
        merged, change = merge(tuned)
        after = merged(input_ids=ids).logits
    assert float((after - before).abs().max()) < 1e-5
    assert float((after - base).abs().max()) > 1e-2
    assert change > 0
