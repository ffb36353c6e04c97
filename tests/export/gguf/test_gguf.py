"""GGUF files, run by a real llama.cpp."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader

from tunesmith.errors import ModelError, RunError
from tunesmith.export.gguf import engine
from tunesmith.export.gguf.engine import Request, ask, llama_cpp_version
from tunesmith.export.gguf.families import family_of
from tunesmith.export.gguf.quant import find_quantizer
from tunesmith.export.stage import Exported
from tunesmith.run.directory import RunDir

Leave = Callable[..., Exported]
Tune = Callable[..., RunDir]
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp is not installed: pip install 'tunesmith[gguf]'"
)


def test_an_adapter_merged_and_quantised(lora_run: RunDir, leave: Leave) -> None:
    done = leave(lora_run, "gguf", quant="q8_0")
    record = done.record
    assert (record.architecture, record.quant, record.vocabulary, record.context_length) == ("llama", "q8_0", 512, 512)
    (trip,) = record.round_trips
    assert trip.passed
    assert trip.num_tokens + trip.num_unlisted == 160
    assert trip.against == "the tuned model with its weights rounded to q8_0"
    assert record.cost is not None
    assert 0 < abs(record.cost.loss - record.cost.tuned_loss) < 0.01
    assert set(record.files) == {"shows.q8_0.gguf", "Modelfile"}
    assert "q8_0 costs" in (done.path / "README.md").read_text()
    fields = GGUFReader(done.path / "shows.q8_0.gguf").fields
    assert fields["tokenizer.ggml.eos_token_id"].contents() == 0
    assert fields["general.file_type"].contents() == 7


def test_what_a_quantizer_wrote_is_read_from_its_file(
    lora_run: RunDir, leave: Leave, quantizer_that: Callable[[str], Path]
) -> None:
    """By a stand-in that copies the file that it is given, in f16."""
    quantizer_that('cp "$1" "$2"')
    done = leave(lora_run, "gguf", quant="q4_k_m")
    (trip,), cost = done.record.round_trips, done.record.cost
    assert trip.against == "the tuned model with its weights rounded to q4_k_m"
    assert cost is not None
    assert cost.num_tokens > trip.num_tokens
    assert set(done.record.files) == {"shows.q4_k_m.gguf", "Modelfile"}
    assert done.record.notes == (
        "llama-quantize wrote 15 matrices as q4_k_m: 15 f16; 16.0 bits a weight. 15 of them have rows that are no "
        "multiple of 256, which the types of q4_k_m need: it took larger ones for these.",
    )


def test_one_that_writes_another_model_is_noticed(
    lora_run: RunDir, leave: Leave, quantizer_that: Callable[[str], Path]
) -> None:
    # the bytes of the tensors, which lie last, the other way round
    swap = "import sys, pathlib; b = pathlib.Path(sys.argv[1]).read_bytes(); n = len(b) // 4 * 2; "
    swap += "pathlib.Path(sys.argv[2]).write_bytes(b[:-n] + b[-n:][::-1])"
    quantizer_that(f'{sys.executable} -c \'{swap}\' "$1" "$2"')
    with pytest.raises(ModelError, match=r"away from the weights that were given to the quantizer"):
        leave(lora_run, "gguf", quant="q4_k_m")


def no_quantizer() -> str:
    """Why there is none; empty where there is."""
    try:
        find_quantizer()
    except ModelError as error:
        return str(error)
    return ""


@pytest.mark.skipif(bool(no_quantizer()), reason=no_quantizer())
@pytest.mark.parametrize(("width", "kinds"), [(256, {"q4_k", "q6_k"}), (96, {"q5_0", "q8_0"})])
def test_q4_k_m_by_llama_cpp_itself(
    width: int, kinds: set[str], tiny_llama: Path, tune: Tune, tmp_path: Path, leave: Leave
) -> None:
    """Rows of 256 have room for K-quants; of 96 llama.cpp takes other types."""
    from transformers import LlamaConfig, LlamaForCausalLM

    path = Path(shutil.copytree(tiny_llama, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors")))
    torch.manual_seed(0)
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=512, bos_token_id=0, eos_token_id=0, **sizes)).save_pretrained(path)
    done = leave(tune(path), "gguf", quant="q4_k_m")
    assert done.record.round_trips[0].passed
    types = {tensor.tensor_type.name.lower() for tensor in GGUFReader(done.path / "shows.q4_k_m.gguf").tensors}
    assert types == {"f32", *kinds}
    assert ("no multiple of 256" in done.record.notes[0]) is (width == 96)


def test_gpt_neo_as_gpt2(tune: Tune, tiny_gpt_neo: Path, leave: Leave) -> None:
    record = leave(tune(tiny_gpt_neo), "gguf", quant="f32").record
    assert (record.architecture, record.context_length) == ("gpt2", 8)
    assert record.round_trips[0].passed
    assert any("It reads 8 tokens at most" in note for note in record.notes)


def test_an_adapter_of_its_own(lora_run: RunDir, leave: Leave) -> None:
    done = leave(lora_run, "gguf", adapter=True, quant="f32")
    assert done.record.is_adapter
    assert done.record.merged_change is None
    assert set(done.record.files) == {"shows.lora.f32.gguf"}
    assert done.record.round_trips[0].largest_difference < 1e-2


def test_a_run_without_an_adapter_has_none_to_give(tiny_run: RunDir, leave: Leave) -> None:
    with pytest.raises(RunError, match=r"trained all weights, so there is no adapter"):
        leave(tiny_run, "gguf", adapter=True)


def test_a_file_that_llama_cpp_refuses(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(ModelError, match=r"llama.cpp cannot run broken.gguf"):
        ask(Request(str(tmp_path / "broken.gguf"), (), ((0,),), 1, (), 64))


def test_a_file_with_other_weights_is_noticed(
    lora_run: RunDir, leave: Leave, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queries in transformers' order: the classic way in which a GGUF file talks nonsense."""
    from dataclasses import replace as changed

    from tunesmith.export.gguf import families

    wrong = changed(families.FAMILIES["LlamaForCausalLM"], rows=lambda name, tensor, config: tensor)
    monkeypatch.setitem(families.FAMILIES, "LlamaForCausalLM", wrong)
    with pytest.raises(ModelError, match=r"it is not the tuned model"):
        leave(lora_run, "gguf", quant="f32")
    assert not (tmp_path / "out").exists()


def test_text_that_would_be_cut_otherwise_is_noticed(
    lora_run: RunDir, leave: Leave, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tunesmith.export.gguf import vocab

    monkeypatch.setattr(vocab, "_pre", lambda content: "smollm")  # cuts digits, which the run's tokenizer does not
    with pytest.raises(ModelError, match=r"as other tokens than training did: from token"):
        leave(lora_run, "gguf", quant="f32")


def test_without_llama_cpp_nothing_is_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "PACKAGE", "no_such_package")
    with pytest.raises(ModelError, match=r"could not be proved. Run: pip install 'tunesmith\[gguf\]'"):
        llama_cpp_version()


@pytest.mark.parametrize(
    ("architecture", "settings", "told"),
    [
        (
            "FalconForCausalLM",
            {"alibi": True},
            "FalconForCausalLM with alibi True cannot leave as GGUF: llama.cpp has no",
        ),
        ("GPT2LMHeadModel", {"activation_function": "relu"}, "computes it with gelu_new"),
        ("Qwen2ForCausalLM", {"rope_parameters": {"rope_type": "dynamic"}}, "rope type 'dynamic' are not written"),
    ],
)
def test_settings_that_llama_cpp_lacks(architecture: str, settings: dict[str, Any], told: str) -> None:
    from types import SimpleNamespace

    known = {"hidden_act": "silu", "parallel_attn": True, "bias": False, "activation": "gelu", "alibi": False}
    with pytest.raises(ModelError, match=told):
        family_of(SimpleNamespace(**{**known, **settings}), architecture)


def test_sentence_piece_is_read_alike(tune: Tune, shows_csv: Path, tmp_path: Path, leave: Leave) -> None:
    """A tokenizer as of Llama 2, whose merges became scores: llama.cpp tokenises rows and hard text the same."""
    model = _llama2_like(tmp_path / "model", shows_csv)
    record = leave(tune(model), "gguf", quant="f32").record
    assert record.round_trips[0].passed


def _llama2_like(path: Path, shows_csv: Path) -> Path:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    known = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=known, show_progress=False)
    trained.train_from_iterator(shows_csv.read_text(encoding="utf-8").splitlines()[1:200], trainer)
    content = json.loads(trained.to_str())
    content["model"] |= {"byte_fallback": True, "fuse_unk": True}
    content["added_tokens"] = [entry for entry in content["added_tokens"] if entry["id"] < 3]
    content["pre_tokenizer"] = None
    fast = Tokenizer.from_str(json.dumps(content))
    fast.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    fast.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    tokenizer.save_pretrained(path)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    return path


SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
GROUPED = {**SMALL, "num_key_value_heads": 2}
GEMMA = {**GROUPED, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 64}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FALCON = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "alibi": False,
    "bias": False,
    "parallel_attn": True,
}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama3": ("Llama", {**GROUPED, "rope_parameters": LLAMA3, "attention_bias": True, "head_dim": 32}),
    "mistral": ("Mistral", {**GROUPED, "sliding_window": 128}),
    "qwen2": ("Qwen2", GROUPED),
    "qwen3": ("Qwen3", {**GROUPED, "head_dim": 32}),
    "gpt2": ("GPT2", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}),
    "gptj": ("GPTJ", {"n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 8, "n_positions": 256}),
    "neox": ("GPTNeoX", {**SMALL, "rotary_pct": 0.25}),
    "falcon-7b": ("Falcon", {**FALCON, "multi_query": True}),
    "falcon-40b": ("Falcon", {**FALCON, "num_kv_heads": 2, "new_decoder_architecture": True}),
    "gemma": ("Gemma", {**GROUPED, "head_dim": 32}),
    "gemma2": ("Gemma2", GEMMA),
    "gemma3": ("Gemma3", {**GEMMA, "num_hidden_layers": 6}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture(name: str, tiny_llama: Path, tune: Tune, tmp_path: Path, leave: Leave) -> None:
    """Random weights, made larger, so that a part that is missing or turned the wrong way shows."""
    import transformers

    kind, settings = ARCHITECTURES[name]
    path = Path(shutil.copytree(tiny_llama, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors")))
    config = getattr(transformers, f"{kind}TextConfig" if kind == "Gemma3" else f"{kind}Config")
    head = "GPT2LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM"
    torch.manual_seed(0)
    model = getattr(transformers, head)(config(vocab_size=512, bos_token_id=0, eos_token_id=0, **settings))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3).add_(0 if weight.dim() > 1 else 0.05 * torch.randn_like(weight))
    model.save_pretrained(path)
    run_dir = tune(path)
    for quant, most in (("f32", 5e-3), ("q8_0", 0.3)):
        (trip,) = leave(run_dir, "gguf", quant=quant, force=True).record.round_trips
        assert trip.passed
        assert trip.largest_difference < most
    shutil.rmtree(path)
