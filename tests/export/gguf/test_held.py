"""What a quantizer's file holds, put back into the model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from gguf import GGUFReader

from tunesmith.errors import ModelError
from tunesmith.export.fold import fold, is_foldable
from tunesmith.export.gguf.families import family_of
from tunesmith.export.gguf.held import take_weights
from tunesmith.export.gguf.vocab import vocabulary
from tunesmith.export.gguf.write import Says, round_weights, write_gguf
from tunesmith.models.tokenizer import TextTokenizer

SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
KINDS: dict[str, dict[str, Any]] = {
    "Llama": {**SMALL, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "GPT2": {"n_embd": 64, "n_layer": 2, "n_head": 4},
    "GPTJ": {"n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 8},
    "GPTNeoX": SMALL,
    "Falcon": {**SMALL, "num_kv_heads": 2, "new_decoder_architecture": True, "alibi": False, "bias": False},
    "Gemma": {**SMALL, "num_key_value_heads": 2, "head_dim": 32},
}  # fmt: skip


def new_model(kind: str) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(vocab_size=512, **KINDS[kind])
    model = getattr(transformers, "GPT2LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM")(config)
    return fold(model) if is_foldable(type(model).__name__) else model


def write(path: Path, model: Any, tokenizer: TextTokenizer, quant: Any) -> Path:
    family = family_of(model.config, type(model).__name__)
    write_gguf(path, model, family, vocabulary(tokenizer, 512), tokenizer, quant, Says("model", None, starts=False))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_rounded_in_a_file_is_what_is_rounded_in_memory(
    kind: str, tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    taken = new_model(kind)
    rounded = copy.deepcopy(taken)
    file = write(tmp_path / "model.gguf", taken, tokenizer, "q5_1")
    held = take_weights(taken, family_of(taken.config, type(taken).__name__), file)
    round_weights(rounded, "q5_1")
    for (name, one), other in zip(taken.named_parameters(), rounded.parameters(), strict=True):
        assert torch.equal(one, other), name
    assert held.num_by_type == {"q5_1": held.num_matrices}
    in_file = [tensor for tensor in GGUFReader(file).tensors if tensor.tensor_type.name == "Q5_1"]
    assert (held.num_matrices, held.num_uneven) == (len(in_file), sum(tensor.shape[0] % 256 > 0 for tensor in in_file))
    assert held.bits_per_weight == 6.0


def test_other_weights_are_not_taken(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    model = new_model("Llama")
    file = write(tmp_path / "model.gguf", model, tokenizer, "q5_1")
    with torch.no_grad():
        weight = model.model.layers[1].self_attn.v_proj.weight
        weight.copy_(weight.roll(1, 0))
    with pytest.raises(ModelError, match=r"blk.1.attn_v.weight is 14\d% away from the weights .* at most 30%"):
        take_weights(model, family_of(model.config, "LlamaForCausalLM"), file)


def test_a_matrix_that_is_missing(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    model = new_model("Llama")
    file = write(tmp_path / "model.gguf", model, tokenizer, "q5_1")
    deeper = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(vocab_size=512, **{**KINDS["Llama"], "num_hidden_layers": 3})
    )
    deeper.load_state_dict(model.state_dict(), strict=False)
    with pytest.raises(ModelError, match=r"model.gguf lacks blk.2"):
        take_weights(deeper, family_of(deeper.config, "LlamaForCausalLM"), file)
