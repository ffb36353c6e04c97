"""How each supported architecture attends over a flat batch: projections, rotary embedding, options.

Each function takes an attention module of transformers, its input [1, T, E], the FlatBatch and the arguments that the
layer passed, and returns the module's output [1, T, E]. The sub-modules are called, never bypassed, so that adapters
and quantised layers inside them keep working.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.errors import ModelError
from tunesmith.fast.attention import AttentionOptions, attend
from tunesmith.fast.layout import FlatBatch

FlatAttention = Callable[[Any, Tensor, FlatBatch, dict[str, Any]], Tensor]


@dataclass(frozen=True)
class Family:
    """One architecture: where its attention modules are and what stands in them."""

    attend: FlatAttention
    attention: str
    """Path of the attention module inside a layer."""
    layers: str
    """Path of the layer list inside the base model."""
    parts: tuple[str, ...]
    """Sub-modules that every attention module must have."""


def _llama(module: Any, x_1TE: Tensor, flat: FlatBatch, arguments: dict[str, Any]) -> Tensor:
    q_THD, k_TGD, v_TGD = (
        projection(x_1TE).view(x_1TE.shape[1], -1, module.head_dim)
        for projection in (module.q_proj, module.k_proj, module.v_proj)
    )
    if hasattr(module, "q_norm"):
        q_THD, k_TGD = module.q_norm(q_THD), module.k_norm(k_TGD)
    cos, sin = arguments["position_embeddings"]
    q_THD, k_TGD = _rotate(q_THD, cos, sin), _rotate(k_TGD, cos, sin)
    options = AttentionOptions(
        scale=module.scaling,
        window=getattr(module, "sliding_window", None),
        dropout=module.attention_dropout if module.training else 0.0,
        softcap=getattr(module, "attn_logit_softcapping", None),
    )
    return _merge(attend(q_THD, k_TGD, v_TGD, flat, options), module.o_proj)


def _mistral(module: Any, x_1TE: Tensor, flat: FlatBatch, arguments: dict[str, Any]) -> Tensor:
    q_THD, k_TGD, v_TGD = (
        projection(x_1TE).view(x_1TE.shape[1], -1, module.head_dim)
        for projection in (module.q_proj, module.k_proj, module.v_proj)
    )
    cos, sin = arguments["position_embeddings"]
    q_THD, k_TGD = _rotate(q_THD, cos, sin), _rotate(k_TGD, cos, sin)
    dropout = module.attention_dropout if module.training else 0.0
    options = AttentionOptions(module.scaling, getattr(module.config, "sliding_window", None), dropout)
    return _merge(attend(q_THD, k_TGD, v_TGD, flat, options), module.o_proj)


def _gpt_neo(module: Any, x_1TE: Tensor, flat: FlatBatch, arguments: dict[str, Any]) -> Tensor:
    q_THD, k_THD, v_THD = (
        projection(x_1TE).view(x_1TE.shape[1], module.num_heads, module.head_dim)
        for projection in (module.q_proj, module.k_proj, module.v_proj)
    )
    window = module.config.window_size if module.attention_type == "local" else None
    dropout = module.attn_dropout.p if module.training else 0.0
    out_THD = attend(q_THD, k_THD, v_THD, flat, AttentionOptions(1.0, window, dropout))
    result: Tensor = module.resid_dropout(_merge(out_THD, module.out_proj))
    return result


def _merge(out_THD: Tensor, projection: nn.Module) -> Tensor:
    result: Tensor = projection(out_THD.flatten(1)[None])
    return result


def _rotate(x_THD: Tensor, cos_1TD: Tensor, sin_1TD: Tensor) -> Tensor:
    """Rotary embedding of the first cos.shape[-1] dimensions, halves paired (Su et al., 2021)."""
    cos, sin = cos_1TD[0, :, None], sin_1TD[0, :, None]
    turned, kept = x_THD[..., : cos.shape[-1]], x_THD[..., cos.shape[-1] :]
    left, right = turned.chunk(2, -1)
    turned = turned * cos + torch.cat((-right, left), -1) * sin
    return turned if kept.shape[-1] == 0 else torch.cat((turned, kept), -1)


_LLAMA_PARTS = ("q_proj", "k_proj", "v_proj", "o_proj")
_LLAMA = Family(_llama, "self_attn", "layers", _LLAMA_PARTS)
FAMILIES = {
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": Family(_mistral, "self_attn", "layers", _LLAMA_PARTS),
    "Qwen2ForCausalLM": _LLAMA,
    "Qwen3ForCausalLM": Family(_llama, "self_attn", "layers", (*_LLAMA_PARTS, "q_norm", "k_norm")),
    "GPTNeoForCausalLM": Family(_gpt_neo, "attn.attention", "h", ("q_proj", "k_proj", "v_proj", "out_proj")),
}


def family_of(model: Any) -> Family:
    """The family of a causal language model of transformers. Raises ModelError when it is not known."""
    name = type(model).__name__
    if name not in FAMILIES or not type(model).__module__.startswith("transformers.models."):
        raise ModelError(
            f"{name}: no fast path for this structure. Supported: {', '.join(FAMILIES)}. Choose one of these models."
        )
    return FAMILIES[name]


def attention_modules(model: Any, family: Family) -> dict[str, nn.Module]:
    """Name and module of every attention layer. Raises ModelError when a part is missing."""
    base = model.base_model
    try:
        found = {
            f"{model.base_model_prefix}.{family.layers}.{number}.{family.attention}": layer.get_submodule(
                family.attention
            )
            for number, layer in enumerate(base.get_submodule(family.layers))
        }
        for module in found.values():
            for part in family.parts:
                module.get_submodule(part)
    except AttributeError as error:
        raise ModelError(f"{type(model).__name__}: unexpected structure ({error}). No fast path for it.") from None
    return found
