"""GPT-Neo as GPT-2 and GPT-J as Phi: the same numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GPTJConfig, GPTJForCausalLM, GPTNeoConfig, GPTNeoForCausalLM, LlamaConfig, LlamaForCausalLM

from tunesmith.errors import ModelError
from tunesmith.export.fold import context_when_folded, fold

WINDOW = 32


def louder(model: Any) -> Any:
    """Larger weights, so that a part that is missing shows."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * (0.2 if weight.dim() > 1 else 0.3))
    return model.eval()


@pytest.fixture(scope="module")
def neo() -> Any:
    config = GPTNeoConfig(
        vocab_size=90,
        hidden_size=48,
        num_layers=4,
        num_heads=4,
        attention_types=[[["global", "local"], 2]],
        window_size=WINDOW,
        max_position_embeddings=128,
    )
    return louder(GPTNeoForCausalLM(config))


@pytest.fixture(scope="module")
def gptj() -> Any:
    return louder(
        GPTJForCausalLM(GPTJConfig(vocab_size=90, n_embd=48, n_layer=3, n_head=3, rotary_dim=8, n_positions=256))
    )


def difference(one: Any, other: Any, length: int) -> float:
    ids = torch.randint(0, 90, (2, length), generator=torch.Generator().manual_seed(length))
    with torch.no_grad():
        return float((one(ids).logits - other(ids).logits).abs().max())


@pytest.mark.parametrize("length", [1, 7, WINDOW])
def test_gpt_neo_is_gpt2_up_to_its_window(neo: Any, length: int) -> None:
    assert difference(neo, fold(neo), length) < 2e-4


def test_and_reads_no_further(neo: Any) -> None:
    folded = fold(neo)
    assert type(folded).__name__ == "GPT2LMHeadModel"
    assert folded.config.n_positions == WINDOW == context_when_folded(neo.config)
    with pytest.raises((IndexError, RuntimeError)):
        difference(neo, folded, WINDOW + 1)


def test_gpt_neo_without_local_layers_reads_as_far_as_before(neo: Any) -> None:
    config = GPTNeoConfig(
        vocab_size=90, hidden_size=48, num_layers=2, num_heads=4, attention_types=[[["global"], 2]],
        max_position_embeddings=128, window_size=WINDOW,
    )  # fmt: skip
    model = louder(GPTNeoForCausalLM(config))
    assert context_when_folded(config) is None
    assert difference(model, fold(model), 128) < 2e-4


@pytest.mark.parametrize("length", [1, 20, 256])
def test_gptj_is_phi_at_any_length(gptj: Any, length: int) -> None:
    folded = fold(gptj)
    assert type(folded).__name__ == "PhiForCausalLM"
    assert difference(gptj, folded, length) < 2e-4


def test_others_are_not_folded() -> None:
    config = LlamaConfig(vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    with pytest.raises(
        ModelError, match=r"LlamaForCausalLM is not folded. Foldable: GPTNeoForCausalLM, GPTJForCausalLM"
    ):
        fold(LlamaForCausalLM(config))
