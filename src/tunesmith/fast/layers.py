"""Whole layers over a flat batch, where transformers' own spend time on element-wise chains.

A `FlatLayer` takes a layer of transformers, the mask that carries the flat batch, the arguments that the model passed
and the layer's input [1, T, E], and returns the layer's result. Projections, dropouts and attention are called as
modules; only norms and activations that are known exactly are replaced.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from tunesmith.fast.pointwise import Kernels, gate, narrow, rms_norm
from tunesmith.fast.recompute import without_keeping

FlatLayer = Callable[[Any, Tensor, dict[str, Any], Kernels, Tensor], Any]

TANH_GELU = frozenset({"NewGELUActivation", "GELUTanh", "FastGELUActivation", "PytorchGELUTanh"})
SILU = frozenset({"SiLU", "SiLUActivation"})


def llama_layer(layer: Any, mask: Tensor, arguments: dict[str, Any], kernels: Kernels, x: Tensor) -> Tensor:
    """Norm, attention, norm, gated MLP (Llama, Mistral, Qwen)."""
    positions = arguments["position_embeddings"]
    normal = _norm(layer.input_layernorm, x, kernels)
    x = x + layer.self_attn(normal, position_embeddings=positions, attention_mask=mask)[0]
    normal, mlp = _norm(layer.post_attention_layernorm, x, kernels), layer.mlp
    gates, ups = mlp.gate_proj(normal), mlp.up_proj(normal)
    if type(mlp.act_fn).__name__ not in SILU:
        return x + mlp.down_proj(mlp.act_fn(gates) * ups)  # type: ignore[no-any-return]
    inner = gate(gates, ups, kernels)
    gates, ups = gates.detach(), ups.detach()
    with _not_kept(layer, inner, lambda: kernels.gate_forward(gates, ups)):
        return x + mlp.down_proj(inner)  # type: ignore[no-any-return]


def gpt2_layer(layer: Any, mask: Tensor, arguments: dict[str, Any], kernels: Kernels, x: Tensor) -> Tensor:
    """Norm, attention, norm, MLP (GPT-2)."""
    x = x + layer.attn(narrow(layer.ln_1(x)), attention_mask=mask)[0]
    mlp = layer.mlp
    return x + mlp.dropout(_activated(layer, mlp.c_fc(layer.ln_2(x)), mlp.act, mlp.c_proj))  # type: ignore[no-any-return]


def gpt_neo_layer(
    layer: Any, mask: Tensor, arguments: dict[str, Any], kernels: Kernels, x: Tensor
) -> tuple[Tensor, None]:
    """As GPT-2; transformers' GPT-Neo layer returns attention weights as well."""
    return gpt2_layer(layer, mask, arguments, kernels, x), None


def gptj_layer(layer: Any, mask: Tensor, arguments: dict[str, Any], kernels: Kernels, x: Tensor) -> tuple[Tensor, None]:
    """One norm, attention and MLP side by side (GPT-J)."""
    normal, mlp = narrow(layer.ln_1(x)), layer.mlp
    attended = layer.attn(hidden_states=normal, attention_mask=mask)[0]
    return attended + mlp.dropout(_activated(layer, mlp.fc_in(normal), mlp.act, mlp.fc_out)) + x, None


def _norm(module: nn.Module, x: Tensor, kernels: Kernels) -> Tensor:
    """The RMS norm of Llama-like models; a norm of another make, or one with hooks, is called as it is."""
    epsilon = getattr(module, "variance_epsilon", None)
    if epsilon is None or not isinstance(module.weight, nn.Parameter):
        return module(x)  # type: ignore[no-any-return]
    return rms_norm(x, module.weight, epsilon, kernels)


def _activated(layer: Any, x: Tensor, activation: nn.Module, projection: nn.Module) -> Tensor:
    """projection(activation(x)); gelu(tanh) in one pass that keeps only x, where transformers' chain keeps six such
    tensors."""
    if type(activation).__name__ not in TANH_GELU:
        return projection(activation(x))  # type: ignore[no-any-return]
    inner, kept = F.gelu(x, approximate="tanh"), x.detach()
    with _not_kept(layer, inner, lambda: F.gelu(kept, approximate="tanh")):
        return projection(inner)  # type: ignore[no-any-return]


def _not_kept(layer: Any, inner: Tensor, compute: Callable[[], Tensor]) -> contextlib.AbstractContextManager[Any]:
    """Checkpointing keeps nothing of a layer but its input."""
    if layer.gradient_checkpointing and layer.training:
        return contextlib.nullcontext()
    return without_keeping(inner, compute)
