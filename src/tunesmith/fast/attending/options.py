"""How one layer attends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class AttentionOptions:
    """scale multiplies the scores. window: how many tokens a token sees, itself included; None means all before it.

    softcap: scores become softcap * tanh(scores / softcap).
    """

    scale: float
    window: int | None = None
    dropout: float = 0.0
    softcap: float | None = None


def llama_options(module: Any) -> AttentionOptions:
    """Of an attention module of Llama, Mistral, Qwen or Gemma, as it is now (training drops attention weights)."""
    return AttentionOptions(
        scale=module.scaling,
        window=getattr(module, "sliding_window", None) or _window_of_all_layers(module.config),
        dropout=module.attention_dropout if module.training else 0.0,
        softcap=getattr(module, "attn_logit_softcapping", None),
    )


def _window_of_all_layers(config: Any) -> int | None:
    """Mistral names one window for all layers, where others have a list of kinds of layers."""
    return getattr(config, "sliding_window", None) if config.model_type == "mistral" else None


def gpt_neo_options(module: Any) -> AttentionOptions:
    """Scores are not scaled; local layers see `window_size` tokens."""
    window = module.config.window_size if module.attention_type == "local" else None
    return AttentionOptions(1.0, window, module.attn_dropout.p if module.training else 0.0)


def gpt2_options(module: Any) -> AttentionOptions:
    """Of an attention module of GPT-2."""
    scale = module.head_dim**-0.5 if module.scale_attn_weights else 1.0
    if module.scale_attn_by_inverse_layer_idx:
        scale /= module.layer_idx + 1
    return AttentionOptions(scale, dropout=module.attn_dropout.p if module.training else 0.0)
