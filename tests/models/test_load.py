"""Loading, adapters, and that plain transformers and peft read what is saved."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tunesmith import fast
from tunesmith.errors import ModelError
from tunesmith.models.adapters import attach_lora, linear_layer_names
from tunesmith.models.find import EMBEDDED, ModelSource, find_model
from tunesmith.models.load import count_parameters, load_for_generation, load_model, save_model
from tunesmith.models.tokenizer import TextTokenizer, load_tokenizer
from tunesmith.recipe import LoraSection

LLAMA_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture
def model_dir(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "llama"))


@pytest.fixture(params=["tiny_llama", "tiny_gpt_neo"])
def source(request: pytest.FixtureRequest) -> ModelSource:
    return find_model(str(request.getfixturevalue(request.param)))


def logits(model: Any, tokenizer: TextTokenizer, text: str = "A boy and a girl") -> torch.Tensor:
    ids = torch.tensor([[tokenizer.start_id, *tokenizer.encode_batch([text])[0]]])
    with torch.no_grad():
        return torch.as_tensor(model(input_ids=ids).logits)


def train_a_little(model: Any) -> None:
    """Move every trained weight, as training would."""
    with torch.no_grad():
        for number, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
            generator = torch.Generator().manual_seed(number)
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(find_model(str(path)), **options)
    return str(caught.value)


# -------------------------------------------------------------------------------------------------------------- loading


def test_a_model_is_loaded_as_transformers_would(source: ModelSource) -> None:
    from transformers import AutoModelForCausalLM

    model, plain = load_model(source), AutoModelForCausalLM.from_pretrained(source.path)
    tokenizer = load_tokenizer(source)
    assert torch.equal(logits(model, tokenizer), logits(plain, tokenizer))
    assert not model.training
    assert load_model(source, dtype="bfloat16").dtype == torch.bfloat16


def test_the_row_of_a_pad_token_learns(model_dir: Path) -> None:
    config = json.loads((model_dir / "config.json").read_text())
    (model_dir / "config.json").write_text(json.dumps({**config, "pad_token_id": 0}))
    plain = load_model(find_model(str(model_dir)))
    assert plain.get_input_embeddings().padding_idx is None
    embedded = plain.get_input_embeddings()(torch.tensor([0, 1]))
    embedded.sum().backward()
    assert plain.get_input_embeddings().weight.grad[0].abs().sum() > 0


def test_weights_that_are_missing_are_not_made_up(model_dir: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(model_dir / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, model_dir / "model.safetensors", metadata={"format": "pt"})
    found = refusal(model_dir)
    assert "1 weights are missing" in found
    assert "model.layers.1.mlp.up_proj.weight" in found


def test_weights_of_another_shape_are_refused(model_dir: Path) -> None:
    config = json.loads((model_dir / "config.json").read_text())
    (model_dir / "config.json").write_text(json.dumps({**config, "intermediate_size": 96}))
    assert "cannot be loaded" in refusal(model_dir)


@pytest.mark.parametrize("damage", [b"", b"\xff" * 64, None], ids=["empty", "noise", "cut short"])
def test_damaged_weights_are_refused(model_dir: Path, damage: bytes | None) -> None:
    file = model_dir / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-64] if damage is None else damage)
    assert "cannot be loaded" in refusal(model_dir)


def test_what_is_not_a_causal_language_model_is_refused(model_dir: Path) -> None:
    (model_dir / "config.json").write_text(json.dumps({"model_type": "vit"}))
    assert "not a causal language model" in refusal(model_dir)
    (model_dir / "config.json").write_text(json.dumps({"model_type": "of-tomorrow"}))
    assert "not a causal language model" in refusal(model_dir)


def test_quantising_without_its_package_says_what_to_install(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'tunesmith[qlora]'" in refusal(tiny_llama, quantize=True)


# ------------------------------------------------------------------------------------------------------------- adapters


def test_an_adapter_trains_the_linear_layers_alone(source: ModelSource) -> None:
    model = load_model(source)
    names = linear_layer_names(model)
    adapted = attach_lora(model, LoraSection(rank=2), "lora")
    trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert all(".lora_" in name for name in trained)
    assert {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in trained} == set(names)
    assert not any("embed" in name or "wte" in name or "lm_head" in name for name in trained)
    number, total = count_parameters(adapted)
    assert number == sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert total == number + sum(p.numel() for p in load_model(source).parameters())


def test_the_settings_of_the_recipe_reach_the_adapter(tiny_llama: Path) -> None:
    lora = LoraSection(rank=3, alpha=12, dropout=0.25, target=("q_proj", "v_proj"))
    adapted = attach_lora(load_model(find_model(str(tiny_llama))), lora, "lora")
    config = adapted.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (3, 12, 0.25)
    assert config.target_modules == {"q_proj", "v_proj"}


@pytest.mark.parametrize("target", ["query", ("q_proj", "query"), "embed_tokens", "lm_head", "input_layernorm"])
def test_a_target_that_is_no_linear_layer_is_refused(tiny_llama: Path, target: Any) -> None:
    with pytest.raises(ModelError) as caught:
        attach_lora(load_model(find_model(str(tiny_llama))), LoraSection(target=target), "lora")
    assert "no linear layer" in str(caught.value)
    assert ", ".join(LLAMA_LINEAR) in str(caught.value)


def test_conv1d_layers_get_adapters_too() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=32, n_embd=16, n_layer=1, n_head=2))
    adapted = attach_lora(model, LoraSection(rank=2), "lora")
    assert adapted.peft_config["default"].fan_in_fan_out
    assert {"c_attn", "c_proj", "c_fc"} == set(adapted.peft_config["default"].target_modules)


def test_qlora_wants_quantised_weights(tiny_llama: Path) -> None:
    with pytest.raises(ModelError, match="not loaded with quantised weights"):
        attach_lora(load_model(find_model(str(tiny_llama))), LoraSection(), "qlora")


def test_a_weight_that_is_packed_into_four_bits_counts_in_full() -> None:
    packed = torch.nn.Parameter(torch.zeros(64, 1, dtype=torch.uint8), requires_grad=False)
    packed.quant_state = SimpleNamespace(shape=torch.Size([16, 8]))  # type: ignore[attr-defined]  # as bitsandbytes does
    model = torch.nn.Module()
    model.register_parameter("packed", packed)
    model.register_parameter("adapter", torch.nn.Parameter(torch.zeros(4, 8)))
    assert count_parameters(model) == (32, 128 + 32)


def test_qlora_trains_on_packed_weights(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2
    )
    whole = LlamaForCausalLM(config)
    whole.save_pretrained(tmp_path)
    model = load_model(ModelSource("tiny", str(tmp_path), "directory"), quantize=True)
    assert model.model.layers[0].mlp.up_proj.weight.dtype == torch.uint8
    assert count_parameters(model)[1] == sum(p.numel() for p in whole.parameters())
    adapted = attach_lora(model, LoraSection(rank=2), "qlora").train()
    ids = torch.arange(1, 9)[None]
    adapted(input_ids=ids, labels=ids).loss.backward()
    gradients = [p.grad.abs().sum() for name, p in adapted.named_parameters() if "lora_B" in name]
    assert len(gradients) == 14
    assert min(gradients) > 0


# --------------------------------------------------------------------------------------------------------------- saving


def test_plain_transformers_reads_what_is_saved(source: ModelSource, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

    model, tokenizer = load_model(source), load_tokenizer(source)
    fast.apply(model)
    train_a_little(model)
    path = tmp_path / "model"
    save_model(model, tokenizer, path, "# Card\n")

    assert {file.name for file in path.iterdir()} == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert (path / "README.md").read_text() == "# Card\n"
    plain = AutoModelForCausalLM.from_pretrained(path)
    assert torch.equal(logits(plain, tokenizer), logits(model, tokenizer))
    (ids,) = tokenizer.encode_batch(["One fine"])
    assert AutoTokenizer.from_pretrained(path)("One fine")["input_ids"] == [tokenizer.start_id, *ids]
    write = pipeline("text-generation", str(path))
    (answer,) = write("One fine", max_new_tokens=4, do_sample=False, return_tensors=True)
    fed = torch.tensor([[tokenizer.start_id, *ids]])
    expected = model.generate(fed, max_new_tokens=4, do_sample=False, pad_token_id=tokenizer.pad_id)
    assert answer["generated_token_ids"] == expected[0].tolist()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks transformers by an old name
def test_an_adapter_is_saved_alone_and_names_its_base(
    source: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, pipeline

    model, tokenizer = load_model(source), load_tokenizer(source)
    fast.apply(model)
    adapted = attach_lora(model, LoraSection(rank=2), "lora")
    train_a_little(adapted)
    expected, path = logits(adapted, tokenizer), tmp_path / "adapter"
    save_model(adapted, tokenizer, path, "# Card\n")

    assert {file.name for file in path.iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert (path / "README.md").read_text() == "# Card\n"
    config = json.loads((path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == f"./{Path(source.path).name}"
    monkeypatch.chdir(Path(source.path).parent)  # from where transformers finds that
    torch.testing.assert_close(logits(AutoPeftModelForCausalLM.from_pretrained(path), tokenizer), expected)
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(path), tokenizer), expected)
    write = pipeline("text-generation", str(path), tokenizer=str(path))
    torch.testing.assert_close(logits(write.model, tokenizer), expected)
    assert write.tokenizer("a")["input_ids"][0] == tokenizer.start_id

    merged, own = load_for_generation(str(path))
    assert type(merged) is type(model)
    assert (own.start_id, own.fingerprint) == (tokenizer.start_id, tokenizer.fingerprint)
    torch.testing.assert_close(logits(merged, own), expected, atol=1e-5, rtol=1e-4)


def test_the_adapter_of_the_embedded_model_names_no_folder_and_is_found(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = replace(find_model(str(tiny_llama)), name=EMBEDDED, kind="embedded")
    adapted = attach_lora(load_model(source), LoraSection(rank=2), "lora")
    save_model(adapted, load_tokenizer(source), tmp_path / "adapter", "# Card\n")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == EMBEDDED
    for file in (tmp_path / "adapter").glob("*.json"):
        assert str(tiny_llama) not in file.read_text(encoding="utf-8"), file.name
    monkeypatch.setattr("tunesmith.models.find._find_embedded", lambda weights: source)
    merged, own = load_for_generation(str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(merged, own), logits(adapted, own), atol=1e-5, rtol=1e-4)


def test_the_adapter_of_a_hub_model_names_the_hub_and_the_commit(tiny_llama: Path, tmp_path: Path) -> None:
    source = ModelSource("owner/name", str(tiny_llama), "hub", revision="0123abc")
    adapted = attach_lora(load_model(source), LoraSection(rank=2), "lora")
    save_model(adapted, load_tokenizer(source), tmp_path / "adapter", "")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("owner/name", "0123abc")


def test_training_on_a_merged_adapter_is_full_or_refused(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_llama.parent)
    source = find_model(str(tiny_llama))
    adapted = attach_lora(load_model(source), LoraSection(rank=2), "lora")
    save_model(adapted, load_tokenizer(source), tmp_path / "adapter", "")
    merged = load_model(find_model(str(tmp_path / "adapter")))
    assert all(parameter.requires_grad for parameter in merged.parameters())
    with pytest.raises(ModelError, match="Export it as a merged model"):
        attach_lora(merged, LoraSection(), "lora")


def test_an_adapter_that_does_not_fit_is_refused(tiny_llama: Path, tiny_gpt_neo: Path, tmp_path: Path) -> None:
    source = find_model(str(tiny_llama))
    adapted = attach_lora(load_model(source), LoraSection(rank=2), "lora")
    path = tmp_path / "adapter"
    save_model(adapted, load_tokenizer(source), path, "")
    config = json.loads((path / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tiny_gpt_neo)
    (path / "adapter_config.json").write_text(json.dumps(config))
    assert "does not fit the base" in refusal(path)


def test_files_are_private_and_a_failed_save_keeps_the_old_model(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, path = find_model(str(tiny_llama)), tmp_path / "model"
    model, tokenizer = load_model(source), load_tokenizer(source)
    save_model(model, tokenizer, path, "first")
    assert path.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in path.iterdir()} == {0o600}

    def fail(self: TextTokenizer, path: Path) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(TextTokenizer, "save", fail)
    with pytest.raises(OSError, match="No space"):
        save_model(model, tokenizer, path, "second")
    assert (path / "README.md").read_text() == "first"
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_the_generation_config_ends_where_training_ended(tiny_llama: Path, tmp_path: Path) -> None:
    from transformers import GenerationConfig

    source = find_model(str(tiny_llama))
    model, tokenizer = load_model(source), load_tokenizer(source)
    model.config.use_cache = False
    model.generation_config = GenerationConfig(eos_token_id=[7, 9], temperature=0.6, top_p=0.9)
    before = copy.deepcopy(model.generation_config)
    save_model(model, tokenizer, tmp_path / "model", "")
    saved = json.loads((tmp_path / "model" / "generation_config.json").read_text())
    assert saved["eos_token_id"] == [0, 7, 9]
    assert (saved["bos_token_id"], saved["pad_token_id"], saved["use_cache"]) == (0, 0, True)
    assert (saved["do_sample"], saved["temperature"]) == (True, 0.6)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["use_cache"]
    assert model.generation_config == before
    assert model.config.use_cache is False
