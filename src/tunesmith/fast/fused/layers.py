"""Whole layers: norm, attention, norm, MLP, of Llama-like and of GPT-2-like models, in few launches.

A layer returns the residual stream without what its MLP adds; that waits in the stream, and the next norm adds it on
its way. Biases in front of a residual sum are added there as well, and get their gradient from the same pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.fast.adapters import can_fuse
from tunesmith.fast.attending.attention import attend
from tunesmith.fast.attending.options import AttentionOptions, gpt2_options, gpt_neo_options, llama_options
from tunesmith.fast.attending.varlen import repeats_for
from tunesmith.fast.batches.layout import FlatBatch
from tunesmith.fast.device import Device
from tunesmith.fast.fused.adapted import AdaptedProduct, adapted_product
from tunesmith.fast.fused.gates import Activation
from tunesmith.fast.fused.norm import Norm, add_norm
from tunesmith.fast.fused.products import Product, activated_linear, linear, product_of
from tunesmith.fast.fused.rotary import Heads, plain_heads, turned_heads
from tunesmith.fast.layers import SILU, TANH_GELU
from tunesmith.fast.shadow import Shadow

AnyProduct = Product | AdaptedProduct


@dataclass
class Waiting:
    """What is yet to be added to the residual stream: [T, E], and a bias [E]."""

    added: Tensor | None = None
    bias: Tensor | None = None

    def take(self) -> tuple[Tensor | None, Tensor | None]:
        taken, self.added, self.bias = (self.added, self.bias), None, None
        return taken


@dataclass(frozen=True)
class Branch:
    """What ends a branch of the residual stream: a product. The next norm adds its bias, unless dropout is between."""

    product: AnyProduct
    bias: Tensor | None
    dropout: nn.Module | None

    def left(self, out: Tensor) -> tuple[Tensor, Tensor | None]:
        return (out if self.dropout is None else self.dropout(out)), self.bias


@dataclass(frozen=True)
class Attention:
    """heads: shapes. turned: with rotary embedding. options(): how it attends now, which training changes."""

    heads: Heads
    turned: bool
    options: Callable[[], AttentionOptions]

    def of(self, qkv_TM: Tensor, flat: FlatBatch, arguments: dict[str, Any], device: Device) -> Tensor:
        """The attended values [T, H D]."""
        options, heads = self.options(), self.heads
        if self.turned:
            cos_TD, sin_TD = (table[0] for table in arguments["position_embeddings"])
            repeats = repeats_for(qkv_TM.dtype, heads.num_heads, heads.num_groups, heads.size, options, device)
            heads = Heads(heads.num_heads, heads.num_groups, heads.size, repeats)
            q, k, v = turned_heads(qkv_TM, cos_TD, sin_TD, heads)
        else:
            q, k, v = plain_heads(qkv_TM, heads)
        return attend(q, k, v, flat, options, device).flatten(1)


@dataclass(frozen=True)
class Layer:
    """A layer's parts, in the order in which they run."""

    first_norm: Norm
    qkv: AnyProduct
    attention: Attention
    attended: Branch
    second_norm: Norm
    inner: AnyProduct
    activation: Activation
    outer: Branch

    def run(
        self, x_TE: Tensor, waiting: Waiting, flat: FlatBatch, arguments: dict[str, Any], dtype: torch.dtype
    ) -> Tensor:
        """The residual stream [T, E] after the layer, without what `waiting` holds then."""
        device = self.qkv.device
        total, normal = add_norm(x_TE, *waiting.take(), self.first_norm, dtype)
        out = self.attention.of(linear(normal, self.qkv), flat, arguments, device)
        added, bias = self.attended.left(linear(out, self.attended.product))
        total, normal = add_norm(total, added, bias, self.second_norm, dtype)
        out = activated_linear(linear(normal, self.inner), self.activation, self.outer.product)
        waiting.added, waiting.bias = self.outer.left(out)
        return total


def llama_parts(layer: Any, attention: Any, shadow: Shadow, dtype: torch.dtype) -> Layer | None:
    """The parts of a Llama-like layer; None when one is of a kind that is not known."""
    mlp = layer.mlp
    first, second = _rms_norm(layer.input_layernorm), _rms_norm(layer.post_attention_layernorm)
    if first is None or second is None or type(mlp.act_fn).__name__ not in SILU or hasattr(attention, "q_norm"):
        return None
    size = attention.head_dim
    heads = Heads(attention.q_proj.out_features // size, attention.k_proj.out_features // size, size)
    return _layer(
        first,
        _product((attention.q_proj, attention.k_proj, attention.v_proj), shadow, dtype),
        Attention(heads, True, partial(llama_options, attention)),
        _branch(attention.o_proj, None, shadow, dtype),
        second,
        _product((mlp.gate_proj, mlp.up_proj), shadow, dtype),
        "swiglu",
        _branch(mlp.down_proj, None, shadow, dtype),
    )


def gpt_neo_parts(layer: Any, attention: Any, shadow: Shadow, dtype: torch.dtype) -> Layer | None:
    """As `llama_parts`, of GPT-Neo."""
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    options = partial(gpt_neo_options, attention)
    return _gpt(layer, attention, projections, attention.out_proj, options, shadow, dtype)


def gpt2_parts(layer: Any, attention: Any, shadow: Shadow, dtype: torch.dtype) -> Layer | None:
    """As `llama_parts`, of GPT-2."""
    options = partial(gpt2_options, attention)
    return _gpt(layer, attention, (attention.c_attn,), attention.c_proj, options, shadow, dtype)


def _gpt(
    layer: Any,
    attention: Any,
    projections: tuple[nn.Module, ...],
    out: nn.Module,
    options: Callable[[], AttentionOptions],
    shadow: Shadow,
    dtype: torch.dtype,
) -> Layer | None:
    mlp = layer.mlp
    first, second = _layer_norm(layer.ln_1), _layer_norm(layer.ln_2)
    if first is None or second is None or type(mlp.act).__name__ not in TANH_GELU:
        return None
    return _layer(
        first,
        _product(projections, shadow, dtype),
        Attention(Heads(attention.num_heads, attention.num_heads, attention.head_dim), False, options),
        _branch(out, attention.resid_dropout, shadow, dtype),
        second,
        _product((mlp.c_fc,), shadow, dtype),
        "gelu",
        _branch(mlp.c_proj, mlp.dropout, shadow, dtype),
    )


def _layer(
    first: Norm,
    qkv: AnyProduct | None,
    attention: Attention,
    attended: Branch | None,
    second: Norm,
    inner: AnyProduct | None,
    activation: Activation,
    outer: Branch | None,
) -> Layer | None:
    if qkv is None or attended is None or inner is None or outer is None:
        return None
    return Layer(first, qkv, attention, attended, second, inner, activation, outer)


def _product(
    modules: Sequence[Any], shadow: Shadow, dtype: torch.dtype, *, with_bias: bool = True
) -> AnyProduct | None:
    """The product of linear layers of the same input, some of which may have adapters."""
    adapted = [is_adapted(module) for module in modules]
    plain = [module.base_layer if has else module for module, has in zip(modules, adapted, strict=True)]
    product = product_of(plain, shadow, dtype, with_bias=with_bias)
    return adapted_product(product, modules, shadow, dtype) if product is not None and any(adapted) else product


def is_adapted(module: Any) -> bool:
    """Whether a module is an adapter that runs inside the product of its layer now."""
    return can_fuse(module) and len(module.active_adapters) == 1 and not (module.disable_adapters or module.merged)


def _branch(projection: Any, dropout: Any, shadow: Shadow, dtype: torch.dtype) -> Branch | None:
    drops = dropout is not None and dropout.p > 0
    product = _product((projection,), shadow, dtype, with_bias=drops)
    if product is None:
        return None
    bias = (projection.base_layer if is_adapted(projection) else projection).bias
    return Branch(product, None if drops else bias, dropout if drops else None)


def _rms_norm(module: Any) -> Norm | None:
    epsilon, weight = getattr(module, "variance_epsilon", None), getattr(module, "weight", None)
    if epsilon is None or not isinstance(weight, nn.Parameter):
        return None
    return Norm(weight, None, epsilon, centred=False)


def _layer_norm(module: Any) -> Norm | None:
    if type(module) is not nn.LayerNorm or module.weight is None:
        return None
    return Norm(module.weight, module.bias, module.eps, centred=True)


def norm_of(module: Any) -> Norm | None:
    """A norm of a known kind."""
    return _layer_norm(module) if isinstance(module, nn.LayerNorm) else _rms_norm(module)


Planner = Callable[[Any, Any, Shadow, torch.dtype], Layer | None]

PLANNERS: dict[str, Planner] = {
    "LlamaForCausalLM": llama_parts,
    "MistralForCausalLM": llama_parts,
    "Qwen2ForCausalLM": llama_parts,
    "GPTNeoForCausalLM": gpt_neo_parts,
    "GPT2LMHeadModel": gpt2_parts,
}
FINAL_NORMS = ("norm", "ln_f")
"""What the norm behind the last layer is called inside the base model."""
