"""The architectures with a fast path: where their attention stands, and how each attends over a flat batch.

A `FlatAttention` takes an attention module of transformers, its input [1, T, E], the FlatBatch and the arguments that
the layer passed, and returns the module's output [1, T, E]. Sub-modules are called, never bypassed, so that adapters
and quantised layers inside them keep working.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.errors import ModelError
from tunesmith.fast.attending.attention import attend
from tunesmith.fast.attending.options import AttentionOptions, gpt2_options, gpt_neo_options, llama_options
from tunesmith.fast.batches.layout import FlatBatch
from tunesmith.fast.layers import FlatLayer, gpt2_layer, gpt_neo_layer, gptj_layer, llama_layer
from tunesmith.fast.pointwise import Kernels, rotate

FlatAttention = Callable[[Any, Tensor, FlatBatch, dict[str, Any], Kernels], Tensor]


@dataclass(frozen=True)
class Family:
    """One architecture."""

    attend: FlatAttention
    attention: str
    """Path of the attention module inside a layer."""
    layers: str
    """Name of the layer list inside the base model."""
    parts: tuple[str, ...]
    """Sub-modules that every attention module must have."""
    layer: FlatLayer | None = None
    """Stands in for a whole layer; None keeps transformers' own."""
    returns_weights: bool = False
    """transformers' layer returns attention weights as well."""
    fixed_positions: bool = False
    """Positions come from a table, so that no document may be longer than it."""


def _llama(module: Any, x_1TE: Tensor, flat: FlatBatch, arguments: dict[str, Any], kernels: Kernels) -> Tensor:
    q_THD, k_TGD, v_TGD = (
        projection(x_1TE).view(x_1TE.shape[1], -1, module.head_dim)
        for projection in (module.q_proj, module.k_proj, module.v_proj)
    )
    if hasattr(module, "q_norm"):
        q_THD, k_TGD = module.q_norm(q_THD), module.k_norm(k_TGD)
    cos_T1D, sin_T1D = (table[0, :, None] for table in arguments["position_embeddings"])
    q_THD, k_TGD = rotate(q_THD, cos_T1D, sin_T1D, kernels), rotate(k_TGD, cos_T1D, sin_T1D, kernels)
    return _merge(attend(q_THD, k_TGD, v_TGD, flat, llama_options(module), kernels.device), module.o_proj)


def _gpt_neo(module: Any, x_1TE: Tensor, flat: FlatBatch, arguments: dict[str, Any], kernels: Kernels) -> Tensor:
    q_THD, k_THD, v_THD = (
        projection(x_1TE).view(x_1TE.shape[1], module.num_heads, module.head_dim)
        for projection in (module.q_proj, module.k_proj, module.v_proj)
    )
    out_THD = attend(q_THD, k_THD, v_THD, flat, gpt_neo_options(module), kernels.device)
    out_1TE: Tensor = module.resid_dropout(_merge(out_THD, module.out_proj))
    return out_1TE


def _gpt2(module: Any, x_1TE: Tensor, flat: FlatBatch, arguments: dict[str, Any], kernels: Kernels) -> Tensor:
    q_THD, k_THD, v_THD = module.c_attn(x_1TE)[0].unflatten(-1, (3, module.num_heads, module.head_dim)).unbind(1)
    out_THD = attend(q_THD, k_THD, v_THD, flat, gpt2_options(module), kernels.device)
    out_1TE: Tensor = module.resid_dropout(_merge(out_THD, module.c_proj))
    return out_1TE


def _gptj(module: Any, x_1TE: Tensor, flat: FlatBatch, arguments: dict[str, Any], kernels: Kernels) -> Tensor:
    q_THD, k_THD, v_THD = (
        projection(x_1TE).view(x_1TE.shape[1], module.num_attention_heads, module.head_dim)
        for projection in (module.q_proj, module.k_proj, module.v_proj)
    )
    table = module.embed_positions.to(x_1TE.device).index_select(0, flat.position_ids)
    sin_T1D, cos_T1D = (half[:, None] for half in table.to(k_THD.dtype).chunk(2, -1))
    q_THD, k_THD = (_rotate_neighbours(x, cos_T1D, sin_T1D) for x in (q_THD, k_THD))
    dropout = module.attn_dropout.p if module.training else 0.0
    options = AttentionOptions(module.head_dim**-0.5, dropout=dropout)
    out_THD = attend(q_THD, k_THD, v_THD, flat, options, kernels.device)
    out_1TE: Tensor = module.resid_dropout(_merge(out_THD, module.out_proj))
    return out_1TE


def _gpt_neox(module: Any, x_1TE: Tensor, flat: FlatBatch, arguments: dict[str, Any], kernels: Kernels) -> Tensor:
    q_THD, k_THD, v_THD = (
        module.query_key_value(x_1TE)[0].unflatten(-1, (-1, 3 * module.head_size)).split(module.head_size, -1)
    )
    cos_T1D, sin_T1D = (table[0, :, None] for table in arguments["position_embeddings"])
    q_THD, k_THD = (_rotate_first(x, cos_T1D, sin_T1D, kernels) for x in (q_THD, k_THD))
    dropout = module.attention_dropout if module.training else 0.0
    options = AttentionOptions(module.scaling, dropout=dropout)
    return _merge(attend(q_THD, k_THD, v_THD, flat, options, kernels.device), module.dense)


def _falcon(module: Any, x_1TE: Tensor, flat: FlatBatch, arguments: dict[str, Any], kernels: Kernels) -> Tensor:
    """Each group of query heads is followed by its key head and its value head. Falcon drops no attention weights."""
    groups = module.num_kv_heads
    fused = module.query_key_value(x_1TE)[0].unflatten(-1, (groups, -1, module.head_dim))
    q, k_TGD, v_TGD = fused.split((fused.shape[2] - 2, 1, 1), 2)
    cos_T1D, sin_T1D = (table[0, :, None] for table in arguments["position_embeddings"])
    q_THD = rotate(q.flatten(1, 2), cos_T1D, sin_T1D, kernels)
    k_TGD = rotate(k_TGD.flatten(1, 2), cos_T1D, sin_T1D, kernels)
    options = AttentionOptions(module.head_dim**-0.5)
    out_THD = attend(q_THD, k_TGD, v_TGD.flatten(1, 2), flat, options, kernels.device)
    return _merge(out_THD, module.dense)


def _merge(out_THD: Tensor, projection: nn.Module) -> Tensor:
    out_1TE: Tensor = projection(out_THD.flatten(1)[None])
    return out_1TE


def _rotate_first(x_THD: Tensor, cos_T1D: Tensor, sin_T1D: Tensor, kernels: Kernels) -> Tensor:
    """Rotary embedding of the first dimensions of each head, as many as the tables have."""
    size = cos_T1D.shape[-1]
    if size == x_THD.shape[-1]:
        return rotate(x_THD, cos_T1D, sin_T1D, kernels)
    turned, kept = x_THD.split((size, x_THD.shape[-1] - size), -1)
    return torch.cat((rotate(turned, cos_T1D, sin_T1D, kernels), kept), -1)


def _rotate_neighbours(x_THD: Tensor, cos_T1D: Tensor, sin_T1D: Tensor) -> Tensor:
    """Rotary embedding that pairs dimension 2i with 2i + 1 (GPT-J), of as many dimensions as the tables turn."""
    size = 2 * cos_T1D.shape[-1]
    turned, kept = x_THD.split((size, x_THD.shape[-1] - size), -1)
    even, odd = turned.unflatten(-1, (-1, 2)).unbind(-1)
    pairs = torch.stack((even * cos_T1D - odd * sin_T1D, odd * cos_T1D + even * sin_T1D), -1)
    return torch.cat((pairs.flatten(-2), kept), -1)


_LLAMA_PARTS = ("q_proj", "k_proj", "v_proj", "o_proj")
_NORMED_PARTS = (*_LLAMA_PARTS, "q_norm", "k_norm")
_NEO_PARTS = ("q_proj", "k_proj", "v_proj", "out_proj")
FAMILIES = {
    "LlamaForCausalLM": Family(_llama, "self_attn", "layers", _LLAMA_PARTS, llama_layer),
    "MistralForCausalLM": Family(_llama, "self_attn", "layers", _LLAMA_PARTS, llama_layer),
    "Qwen2ForCausalLM": Family(_llama, "self_attn", "layers", _LLAMA_PARTS, llama_layer),
    "Qwen3ForCausalLM": Family(_llama, "self_attn", "layers", _NORMED_PARTS, llama_layer),
    "GemmaForCausalLM": Family(_llama, "self_attn", "layers", _LLAMA_PARTS),
    "Gemma2ForCausalLM": Family(_llama, "self_attn", "layers", _LLAMA_PARTS),
    "Gemma3ForCausalLM": Family(_llama, "self_attn", "layers", _NORMED_PARTS),
    "GPTNeoForCausalLM": Family(
        _gpt_neo, "attn.attention", "h", _NEO_PARTS, gpt_neo_layer, returns_weights=True, fixed_positions=True
    ),
    "GPT2LMHeadModel": Family(_gpt2, "attn", "h", ("c_attn", "c_proj"), gpt2_layer, fixed_positions=True),
    "GPTJForCausalLM": Family(_gptj, "attn", "h", _NEO_PARTS, gptj_layer, fixed_positions=True),
    "GPTNeoXForCausalLM": Family(_gpt_neox, "attention", "layers", ("query_key_value", "dense")),
    "FalconForCausalLM": Family(_falcon, "self_attention", "h", ("query_key_value", "dense")),
}

_REFUSED = {
    "alibi": "positions are attention biases (alibi)",
    "add_cross_attention": "layers attend to an encoder",
    "use_bidirectional_attention": "attention is not causal",
}


def family_of(model: Any) -> Family:
    """The family of a causal language model of transformers. Raises ModelError when its structure is not known."""
    name = type(model).__name__
    if name not in FAMILIES or not type(model).__module__.startswith("transformers.models."):
        raise ModelError(
            f"{name}: no fast path for this structure. Supported: {', '.join(FAMILIES)}. Choose one of these models."
        )
    for setting, reason in _REFUSED.items():
        if getattr(model.config, setting, False):
            raise ModelError(f"{name}: no fast path, because {reason} (config.{setting}). Choose another model.")
    return FAMILIES[name]


def layer_modules(model: Any, family: Family) -> list[tuple[str, nn.Module, nn.Module]]:
    """Name, layer and attention module of every layer. Raises ModelError when a part is missing."""
    try:
        found = []
        for number, layer in enumerate(model.base_model.get_submodule(family.layers)):
            attention = layer.get_submodule(family.attention)
            for part in family.parts:
                attention.get_submodule(part)
            found.append((f"{model.base_model_prefix}.{family.layers}.{number}", layer, attention))
    except AttributeError as error:
        raise ModelError(f"{type(model).__name__}: unexpected structure ({error}). No fast path for it.") from None
    return found
