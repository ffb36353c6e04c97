"""Whole layers over a flat batch, where transformers' own spend time on element-wise chains.

A `FlatLayer` takes a layer of transformers, the mask that carries the flat batch, the arguments that the model passed
and the layer's input [1, T, E], and returns the layer's result. Projections, dropouts and attention are called as
modules; only norms and activations that are known exactly are replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from tunesmith.fast.pointwise import Kernels, gate, narrow, rms_norm

FlatLayer = Callable[[Any, Tensor, dict[str, Any], Kernels, Tensor], Any]

_TANH_GELU = frozenset({"NewGELUActivation", "GELUTanh", "FastGELUActivation", "PytorchGELUTanh"})
_SILU = frozenset({"SiLU", "SiLUActivation"})


def llama_layer(layer: Any, mask: Tensor, arguments: dict[str, Any], kernels: Kernels, x: Tensor) -> Tensor:
    """Norm, attention, norm, gated MLP (Llama, Mistral, Qwen)."""
    positions = arguments["position_embeddings"]
    normal = _norm(layer.input_layernorm, x, kernels)
    x = x + layer.self_attn(normal, position_embeddings=positions, attention_mask=mask)[0]
    normal, mlp = _norm(layer.post_attention_layernorm, x, kernels), layer.mlp
    if type(mlp.act_fn).__name__ in _SILU:
        inner = gate(mlp.gate_proj(normal), mlp.up_proj(normal), kernels)
    else:
        inner = mlp.act_fn(mlp.gate_proj(normal)) * mlp.up_proj(normal)
    return x + mlp.down_proj(inner)  # type: ignore[no-any-return]


def gpt2_layer(layer: Any, mask: Tensor, arguments: dict[str, Any], kernels: Kernels, x: Tensor) -> Tensor:
    """Norm, attention, norm, MLP (GPT-2)."""
    x = x + layer.attn(narrow(layer.ln_1(x)), attention_mask=mask)[0]
    mlp = layer.mlp
    return x + mlp.dropout(mlp.c_proj(_activate(mlp.act, mlp.c_fc(layer.ln_2(x)))))  # type: ignore[no-any-return]


def gpt_neo_layer(
    layer: Any, mask: Tensor, arguments: dict[str, Any], kernels: Kernels, x: Tensor
) -> tuple[Tensor, None]:
    """As GPT-2; transformers' GPT-Neo layer returns attention weights as well."""
    return gpt2_layer(layer, mask, arguments, kernels, x), None


def gptj_layer(layer: Any, mask: Tensor, arguments: dict[str, Any], kernels: Kernels, x: Tensor) -> tuple[Tensor, None]:
    """One norm, attention and MLP side by side (GPT-J)."""
    normal, mlp = narrow(layer.ln_1(x)), layer.mlp
    attended = layer.attn(hidden_states=normal, attention_mask=mask)[0]
    return attended + mlp.dropout(mlp.fc_out(_activate(mlp.act, mlp.fc_in(normal)))) + x, None


def _norm(module: nn.Module, x: Tensor, kernels: Kernels) -> Tensor:
    """The RMS norm of Llama-like models; a norm of another make, or one with hooks, is called as it is."""
    epsilon = getattr(module, "variance_epsilon", None)
    if epsilon is None or not isinstance(module.weight, nn.Parameter):
        return module(x)  # type: ignore[no-any-return]
    return rms_norm(x, module.weight, epsilon, kernels)


def _activate(activation: nn.Module, x: Tensor) -> Tensor:
    """gelu(tanh) in one pass that keeps only its input; transformers' chain keeps six tensors of this size."""
    if type(activation).__name__ in _TANH_GELU:
        return F.gelu(x, approximate="tanh")
    return activation(x)  # type: ignore[no-any-return]
