"""Shapes of models, without weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunesmith.errors import ModelError, PlanError
from tunesmith.forecast.shapes import find_shape

COUNTS = {
    "EleutherAI/gpt-neo-125m": 125_198_592,
    "EleutherAI/gpt-neo-2.7B": 2_651_307_520,
    "gpt2": 124_439_808,
    "EleutherAI/gpt-j-6b": 6_050_882_784,
    "tiiuae/falcon-7b": 6_921_720_704,
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "smollm2-135m": 134_515_008,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "mistralai/Mistral-7B-v0.3": 7_248_023_552,
}


@pytest.mark.parametrize("name", COUNTS)
def test_packaged_shapes_have_the_published_number_of_parameters(name: str) -> None:
    assert find_shape(name).num_parameters == COUNTS[name]


def test_the_case_of_a_hub_id_does_not_matter() -> None:
    assert find_shape("eleutherai/GPT-Neo-125M").num_parameters == COUNTS["EleutherAI/gpt-neo-125m"]


def test_a_config_alone_is_enough(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((tiny_llama / "config.json").read_text())
    shape = find_shape(str(tmp_path))
    assert shape.max_positions == 512
    assert shape.num_parameters == find_shape(str(tiny_llama)).num_parameters


def test_an_offline_hub_id_says_which_file_to_bring() -> None:
    with pytest.raises(ModelError, match=r"config\.json in a directory"):
        find_shape("someone/unheard-of-model")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hidden_size": 8}, "names no model_type"),
        ({"model_type": "quantum_llm"}, "no causal language model with a known attention"),
        ({"model_type": "bert", "num_hidden_layers": 2}, "no fast path|known attention"),
        ([1], "expected a JSON object"),
    ],
)
def test_a_config_without_a_known_attention_is_refused(config: object, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=message):
        find_shape(str(tmp_path))


def test_a_sequence_longer_than_the_model_is_refused() -> None:
    shape = find_shape("EleutherAI/gpt-neo-125m")
    shape.check_length(2048, "train.max_length")
    with pytest.raises(PlanError, match=r"train\.max_length: 2,049 tokens, .* at most 2,048"):
        shape.check_length(2049, "train.max_length")
