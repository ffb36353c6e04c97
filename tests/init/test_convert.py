"""Configurations of other tools become recipes; what has no counterpart is listed with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunesmith.errors import RecipeError
from tunesmith.foreign import FOREIGN, NoCounterpart
from tunesmith.init.convert import convert
from tunesmith.init.stage import from_config
from tunesmith.recipe import Recipe

AXOLOTL = """
base_model: HuggingFaceTB/SmolLM2-360M
load_in_8bit: false
load_in_4bit: true
strict: false
datasets:
  - path: teknium/GPT4-LLM-Cleaned
    type: alpaca
dataset_prepared_path: last_run_prepared
val_set_size: 0.05
output_dir: ./outputs/qlora-out
adapter: qlora
lora_r: 32
lora_alpha: 16
lora_dropout: 0.05
lora_target_linear: true
sequence_len: 2048
sample_packing: true
wandb_project:
gradient_accumulation_steps: 4
micro_batch_size: 2
num_epochs: 3
optimizer: paged_adamw_8bit
lr_scheduler: cosine
learning_rate: 2e-4
bf16: auto
tf32: false
gradient_checkpointing: true
logging_steps: 1
flash_attention: true
warmup_steps: 10
evals_per_epoch: 4
saves_per_epoch: 1
weight_decay: 0.0
neftune_noise_alpha: 5
special_tokens:
  pad_token: "<pad>"
"""
LLAMA_FACTORY = """
model_name_or_path: meta-llama/Llama-3.2-1B
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all
dataset: mine
dataset_dir: data
template: llama3
cutoff_len: 4096
max_samples: 1000
overwrite_cache: true
preprocessing_num_workers: 16
output_dir: saves/llama3
logging_steps: 10
save_steps: 500
plot_loss: true
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine_with_restarts
warmup_ratio: 0.1
bf16: true
val_size: 0.1
eval_strategy: steps
eval_steps: 250
"""
TRL = {
    "model_name_or_path": "Qwen/Qwen2.5-0.5B",
    "torch_dtype": "bfloat16",
    "dataset_name": "trl-lib/Capybara",
    "dataset_train_split": "train",
    "max_length": 1024,
    "learning_rate": 2e-5,
    "num_train_epochs": 1,
    "packing": True,
    "optim": "adamw_torch_fused",
    "max_steps": -1,
    "report_to": "wandb",
    "save_total_limit": 3,
    "use_peft": True,
    "lora_target_modules": ["q_proj", "v_proj"],
    "seed": 42,
    "max_grad_norm": 0.5,
    "push_to_hub": False,
}


def converted(tmp_path: Path, text: str, name: str = "theirs.yaml") -> tuple[Recipe, str]:
    (tmp_path / name).write_text(text, encoding="utf-8")
    written = from_config(tmp_path / name, tmp_path / "ours.yaml", force=True)
    return Recipe.load(written.path), written.path.read_text(encoding="utf-8")


def test_axolotl(tmp_path: Path) -> None:
    recipe, text = converted(tmp_path, AXOLOTL)
    assert recipe.model.name == "HuggingFaceTB/SmolLM2-360M"
    assert recipe.data.path == "hub:teknium/GPT4-LLM-Cleaned"
    assert (recipe.data.eval_fraction, recipe.train.epochs, recipe.train.max_length) == (0.05, 3, 2048)
    assert (recipe.train.method, recipe.train.optimizer, recipe.train.schedule) == ("qlora", "adamw8bit", "cosine")
    assert (recipe.train.learning_rate, recipe.train.precision) == (2e-4, "auto")
    assert recipe.train.gradient_checkpointing is True
    assert (recipe.lora.rank, recipe.lora.alpha, recipe.lora.dropout) == (32, 16, 0.05)
    assert recipe.lora.target == "all-linear"
    assert (recipe.train.tokens_per_step, recipe.train.micro_batch_tokens) == ("auto", "auto")
    left_out = text.split("left out:\n")[1]
    for name in (
        "micro_batch_size: 2",
        "gradient_accumulation_steps: 4",
        "warmup_steps: 10",
        "neftune_noise_alpha: 5",
        "special_tokens",
        "evals_per_epoch: 4",
        "sample_packing: true",
    ):
        assert f"#   {name}" in left_out
    assert "# num_epochs: 3" in text, "each value's origin stands beside it"


def test_llama_factory_with_its_list_of_data(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    entry = {"file_name": "mine.json", "columns": {"prompt": "question", "response": "answer"}}
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps({"mine": entry}))
    recipe, text = converted(tmp_path, LLAMA_FACTORY)
    assert recipe.data.path == str(tmp_path / "data" / "mine.json")
    assert (recipe.data.prompt, recipe.data.completion) == ("question", "answer")
    assert (recipe.data.max_rows, recipe.data.eval_fraction) == (1000, 0.1)
    assert (recipe.train.method, recipe.lora.rank, recipe.lora.target) == ("lora", 8, "all-linear")
    assert (recipe.eval.every, recipe.save.every, recipe.train.warmup_fraction) == (250, 500, 0.1)
    assert (recipe.train.schedule, recipe.train.precision, recipe.train.epochs) == ("cosine", "bf16", 3)
    assert "stage" not in text
    assert "#   template: llama3: the model's own chat template is used" in text


def test_llama_factory_without_it(tmp_path: Path) -> None:
    recipe, text = converted(tmp_path, LLAMA_FACTORY)
    assert recipe.data.path == "mine"
    assert "has no such name: set data.path to its file" in text


def test_trl_as_json(tmp_path: Path) -> None:
    recipe, _ = converted(tmp_path, json.dumps(TRL), "theirs.json")
    assert recipe.data.path == "hub:trl-lib/Capybara:train"
    assert (recipe.model.dtype, recipe.train.method, recipe.train.optimizer) == ("bfloat16", "lora", "adamw")
    assert recipe.lora.target == ("q_proj", "v_proj")
    assert (recipe.train.max_steps, recipe.train.seed, recipe.train.max_grad_norm) == (None, 42, 0.5)
    assert (recipe.train.report_to, recipe.save.keep) == (("wandb",), 3)


@pytest.mark.parametrize(
    ("entry", "keys"),
    [
        ("{path: a.jsonl, type: completion, field: body}", {"path": "a.jsonl", "text": "body"}),
        ("{path: ./texts, type: chat_template, field_messages: turns}", {"path": "./texts", "messages": "turns"}),
        ("{path: o/chat, type: sharegpt, split: train}", {"path": "hub:o/chat:train", "messages": "conversations"}),
        (
            "{path: a.jsonl, type: {field_instruction: q, field_output: a}}",
            {"path": "a.jsonl", "prompt": "q", "completion": "a"},
        ),
    ],
)
def test_axolotls_kinds_of_rows(entry: str, keys: dict[str, str], tmp_path: Path) -> None:
    recipe, _ = converted(tmp_path, f"base_model: m\ndatasets: [{entry}]\n")
    assert {key: getattr(recipe.data, key) for key in keys} == keys


def test_several_sources_are_mixed(tmp_path: Path) -> None:
    recipe, _ = converted(tmp_path, "base_model: m\ndatasets: [{path: a.jsonl}, {path: b.jsonl}]\n")
    assert [source.path for source in recipe.data.path] == ["a.jsonl", "b.jsonl"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("rl: dpo", "preferences or rewards is another task"),
        ("stage: dpo", "preferences or rewards is another task"),
        ("optim: lion_32bit", "lion_32bit has no counterpart"),
        ("lr_scheduler_type: polynomial", "polynomial has no counterpart"),
        ("val_set_size: 200", "it counts rows, 200"),
        ("eval_steps: 0.1", "counted in other units"),
        ("num_train_epochs: many", "train.epochs"),
        ("adapter: ia3", "ia3 has no counterpart"),
        ("deepspeed: zero3.json", "launcher"),
        ("unheard_of: 3", "no counterpart"),
    ],
)
def test_what_has_no_counterpart_is_said(line: str, why: str, tmp_path: Path) -> None:
    _, text = converted(tmp_path, f"base_model: m\n{line}\n")
    assert why in text.split("left out:\n")[1]


def test_two_that_disagree_are_told(tmp_path: Path) -> None:
    _, text = converted(tmp_path, "base_model: m\nmax_seq_length: 512\nsequence_len: 1024\n")
    assert "#   sequence_len: 1024: train.max_length is 512 already, by max_seq_length: 512" in text


def test_what_cannot_be_read(tmp_path: Path) -> None:
    for text, problem in (
        ("[1, 2]", "expected names with values"),
        ("a: [", "neither YAML nor JSON"),
        ("x: 1", "none of its names is known"),
        ("model: {name: m}\ndata: {path: a}", "is a recipe already"),
    ):
        with pytest.raises(RecipeError, match=problem):
            converted(tmp_path, text)
    with pytest.raises(RecipeError, match="no such file"):
        convert(tmp_path / "gone.yaml")


USUAL = {"data.path": "a.csv", "train.report_to": True, "lora.target": "all", "train.schedule": "linear"}
WORDS = {"model.dtype": "bfloat16", "train.optimizer": "adamw_torch", "train.method": "lora"}


@pytest.mark.parametrize("entry", [entry for entry in FOREIGN if "." in entry.ours], ids=lambda entry: entry.names[0])
def test_each_entry_gives_a_value_that_a_recipe_takes_or_a_reason(entry: object, tmp_path: Path) -> None:
    ours: str = entry.ours  # type: ignore[attr-defined]
    value = {**USUAL, **WORDS}.get(ours, "name" if ours.startswith(("data.", "model.")) else 1)
    if ours in ("data.eval_fraction", "lora.dropout", "train.warmup_fraction"):
        value = 0.1
    if ours in ("data.max_rows", "train.max_length"):
        value = 64
    if ours in ("train.learning_rate",):
        value = 1e-4
    try:
        entry.convert(value)  # type: ignore[attr-defined]
    except NoCounterpart:
        return
    recipe, _ = converted(tmp_path, f"base_model: m\n{entry.names[0]}: {json.dumps(value)}\n")  # type: ignore[attr-defined]
    section, name = ours.split(".")
    if ours not in ("model.name", "data.path"):
        assert getattr(getattr(recipe, section), name) is not None
