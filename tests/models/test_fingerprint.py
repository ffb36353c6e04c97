"""An adapter knows its base by the weights, whatever file they lie in."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tunesmith.errors import ModelError
from tunesmith.models.adapters import attach_lora
from tunesmith.models.find import find_model
from tunesmith.models.fingerprint import trained_on, weights_fingerprint
from tunesmith.models.load import load_model, save_model
from tunesmith.models.tokenizer import load_tokenizer
from tunesmith.recipe import LoraSection


@pytest.fixture
def base(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "base"))


def test_another_file_of_the_same_weights(base: Path) -> None:
    before = weights_fingerprint(base)
    save_file(load_file(base / "model.safetensors"), base / "model.safetensors", {"format": "pt", "written": "again"})
    (base / "config.json").write_text((base / "config.json").read_text() + "\n")
    assert weights_fingerprint(base) == before


def test_other_weights(base: Path) -> None:
    before = weights_fingerprint(base)
    weights = load_file(base / "model.safetensors")
    save_file({name: weight * 1.001 for name, weight in weights.items()}, base / "model.safetensors", {"format": "pt"})
    assert weights_fingerprint(base) != before


def test_a_saved_adapter_names_its_base(base: Path, tmp_path: Path) -> None:
    source = find_model(str(base))
    tokenizer = load_tokenizer(source)
    model = attach_lora(load_model(source), LoraSection(rank=2), "lora")
    save_model(model, tokenizer, tmp_path / "adapter", "a card")
    assert trained_on(tmp_path / "adapter") == weights_fingerprint(base)
    written = (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes()
    assert written[8:].startswith(b'{"__metadata__":{"base_fingerprint":'), "the same weights are the same bytes"
    load_model(find_model(str(tmp_path / "adapter")))
    weights = load_file(base / "model.safetensors")
    save_file({name: weight * 1.001 for name, weight in weights.items()}, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"trained on other weights than those of .*base"):
        load_model(find_model(str(tmp_path / "adapter")))


def test_pissa_wants_whole_weights(base: Path) -> None:
    model = load_model(find_model(str(base)))
    model.is_quantized = True
    with pytest.raises(ModelError, match=r"lora.init pissa: decomposes weights, and those of train.method qlora"):
        attach_lora(model, LoraSection(init="pissa"), "qlora")


def test_unknown_targets_are_named_with_those_that_exist(tiny_llama: Path) -> None:
    with pytest.raises(ModelError, match=r"lora\.target: q_pro, lm_head: no linear layer .* some of: q_proj, k_proj"):
        attach_lora(load_model(find_model(str(tiny_llama))), LoraSection(target=("q_pro", "v_proj", "lm_head")), "lora")


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_four_bits_keep_their_gradient_after_an_evaluation(tiny_gpt_neo: Path) -> None:
    """bitsandbytes repacks them for a kernel without a backward pass, on processors with AVX512-BF16."""
    source = replace(find_model(str(tiny_gpt_neo)), adapter=None)
    ids = torch.arange(1, 30)[None]

    def gradients(*, evaluate: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = attach_lora(load_model(source, quantize=True), LoraSection(rank=2), "qlora")
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight)
        if evaluate:
            with torch.no_grad():
                model.eval()(input_ids=ids)
        model.train()(input_ids=ids, labels=ids).loss.backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    before, after = gradients(evaluate=False), gradients(evaluate=True)
    assert len(before) == len(after) > 0
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
