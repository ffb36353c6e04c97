"""Tiny random models of every architecture with a fast path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers

WINDOW = 6
VOCABULARY = 96
POSITIONS = 64
LENGTHS = (1, 2, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW, 19, 31, 31)
"""Fed tokens per document: around the window, and enough spread for several buckets."""

_WIDE = {"vocab_size": VOCABULARY, "hidden_size": 32, "max_position_embeddings": POSITIONS}
_LLAMA = dict(
    **_WIDE, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8
)
_NO_TOKENS = {"bos_token_id": 0, "eos_token_id": 0}
_SLIDING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": WINDOW}
_GPT = dict(vocab_size=VOCABULARY, n_positions=POSITIONS, n_embd=32, n_layer=2, n_head=4, **_NO_TOKENS)
_FALCON = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_GPT_DRY = dict(_GPT, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0)

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", dict(_LLAMA, tie_word_embeddings=True)),
    "llama-untied-bias": ("Llama", dict(_LLAMA, attention_bias=True, mlp_bias=True, tie_word_embeddings=False)),
    "mistral": ("Mistral", dict(_LLAMA, sliding_window=WINDOW)),
    "qwen2": ("Qwen2", dict(_LLAMA, use_sliding_window=True, **_SLIDING)),
    "qwen3": ("Qwen3", dict(_LLAMA, tie_word_embeddings=True)),
    "gemma": ("Gemma", dict(_LLAMA)),
    "gemma2": ("Gemma2", dict(_LLAMA, attn_logit_softcapping=2.0, final_logit_softcapping=1.5, **_SLIDING)),
    "gemma3": ("Gemma3Text", dict(_LLAMA, **_SLIDING)),
    "gpt2": ("GPT2", _GPT_DRY),
    "gpt2-scaled": ("GPT2", dict(_GPT_DRY, scale_attn_by_inverse_layer_idx=True, scale_attn_weights=False)),
    "gptj": ("GPTJ", dict(_GPT, rotary_dim=4, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0)),
    "gpt-neox": ("GPTNeoX", dict(_WIDE, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)),
    "falcon-multiquery": ("Falcon", dict(_FALCON)),
    "falcon-grouped": ("Falcon", dict(_FALCON, new_decoder_architecture=True, num_kv_heads=2)),
    "falcon-heads": ("Falcon", dict(_FALCON, multi_query=False, parallel_attn=False, bias=True)),
    "gpt-neo": (
        "GPTNeo",
        dict(
            **_WIDE,
            **_NO_TOKENS,
            intermediate_size=48,
            num_layers=2,
            num_heads=4,
            attention_types=[[["global", "local"], 1]],
            window_size=WINDOW,
            embed_dropout=0.0,
            attention_dropout=0.0,
            resid_dropout=0.0,
        ),
    ),
}


def build_model(name: str, *, attention: str = "eager", **overrides: Any) -> Any:
    """A random model of two layers, in training mode, the same for the same arguments."""
    kind, settings = CONFIGS[name]
    config = getattr(transformers, f"{kind}Config")(**{**settings, **_NO_TOKENS, **overrides})
    config.pad_token_id = None
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.train()


def make_documents(lengths: tuple[int, ...] = LENGTHS, *, seed: int = 0, masked: bool = False) -> list[Any]:
    """Random documents that feed `lengths` tokens; masked ones supervise some positions only, the second none."""
    random = np.random.default_rng(seed)
    documents = []
    for number, length in enumerate(lengths):
        ids = random.integers(0, VOCABULARY, length + 1)
        supervised = (random.random(length + 1) < 0.5) & (number != 1) if masked else None
        documents.append((ids, supervised))
    return documents


def reference_losses(model: Any, documents: list[Any]) -> list[torch.Tensor]:
    """Summed cross entropy of each document, fed alone to transformers' own forward."""
    losses = []
    for ids, supervised in documents:
        tokens = torch.as_tensor(np.asarray(ids))[None]
        targets = tokens[0, 1:].clone()
        if supervised is not None:
            targets[~torch.as_tensor(supervised[1:])] = -100
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits[0].float()
        losses.append(torch.nn.functional.cross_entropy(logits, targets, ignore_index=-100, reduction="sum"))
    return losses


def gradients(model: Any) -> dict[str, torch.Tensor]:
    """The gradients of all parameters that have one; they are taken away from the model."""
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def assert_gradients_close(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], relative: float = 1e-5
) -> None:
    """Every element within `relative` of its parameter's largest; parameters without a true gradient near zero."""
    assert found.keys() == expected.keys()
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    for name, gradient in expected.items():
        allowed = relative * gradient.abs().max().item() + 1e-7 * largest
        difference = (found[name] - gradient).abs().max().item()
        assert difference <= allowed, f"{name}: {difference} > {allowed}"


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=sorted(CONFIGS))
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def build() -> Callable[..., Any]:
    return build_model


@pytest.fixture
def documents_of() -> Callable[..., list[Any]]:
    return make_documents


@pytest.fixture
def reference() -> Callable[..., list[torch.Tensor]]:
    return reference_losses


@pytest.fixture
def take_gradients() -> Callable[..., dict[str, torch.Tensor]]:
    return gradients


@pytest.fixture
def assert_close_gradients() -> Callable[..., None]:
    return assert_gradients_close
