"""Models of the published shapes with random weights: speed and memory do not depend on the values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

VOCABULARY = 50257


@dataclass(frozen=True)
class Shape:
    """kind: neo or llama. The rest as in the configuration of the published model."""

    name: str
    kind: str
    hidden: int
    layers: int
    heads: int
    inner: int
    kv_heads: int | None = None
    vocabulary: int = VOCABULARY
    positions: int = 2048


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("gpt-neo-125m", "neo", 768, 12, 12, 3072),
        Shape("gpt-neo-1.3b", "neo", 2048, 24, 16, 8192),
        Shape("gpt-neo-2.7b", "neo", 2560, 32, 20, 10240),
        Shape("smollm2-135m", "llama", 576, 30, 9, 1536, kv_heads=3),
        Shape("toy-neo", "neo", 8, 2, 2, 16, positions=128),
        Shape("toy-llama", "llama", 8, 2, 2, 16, kv_heads=1, positions=128),
    )
}


def build(shape: Shape, device: str = "cpu") -> Any:
    """The model in training mode, float32, made on `device`; no dropout, as all setups are compared without."""
    import torch

    with torch.device(device):
        return _build(shape).train()


def _build(shape: Shape) -> Any:
    import torch
    from transformers import GPTNeoConfig, GPTNeoForCausalLM, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    common: dict[str, Any] = {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.inner,
        "bos_token_id": VOCABULARY - 1,
        "eos_token_id": VOCABULARY - 1,
        "tie_word_embeddings": True,
        "max_position_embeddings": shape.positions,
    }
    if shape.kind == "neo":
        none = {"embed_dropout": 0.0, "attention_dropout": 0.0, "resid_dropout": 0.0}
        kinds = [[["global", "local"], shape.layers // 2]]
        neo = GPTNeoConfig(num_layers=shape.layers, num_heads=shape.heads, attention_types=kinds, **none, **common)
        return GPTNeoForCausalLM(neo)
    llama = LlamaConfig(
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        **common,
    )
    llama._attn_implementation = "sdpa"
    return LlamaForCausalLM(llama)


def flops_per_token(shape: Shape) -> float:
    """Of one training step: 6 x the weights that a token is multiplied with, head included; attention is left out."""
    model = build(shape, "meta")
    embedding = model.get_input_embeddings().weight
    tables = {id(embedding)} | {id(p) for name, p in model.named_parameters() if name.endswith("wpe.weight")}
    inner = sum(p.numel() for p in model.parameters() if p.dim() == 2 and id(p) not in tables)
    return 6.0 * (inner + embedding.numel())
