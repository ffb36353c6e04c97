"""The user's model without weights: built from its config alone, on fake tensors, as it would be trained.

Fake tensors live on the CPU, since a torch without CUDA cannot pretend to have it. The fast path is told of the GPU by
its `Device`; for what models call themselves, `GpuKernels` stands in for the few functions whose GPU kernels allocate
other memory than the CPU's. Both hold for the thread that plans alone: another one may train meanwhile.
"""

from __future__ import annotations

import contextlib
import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tunesmith.compat import efficient_attention, enable_checkpointing, flash_attention, math_attention
from tunesmith.fast.batches.layout import FlatBatch, flatten

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes a weight takes in NF4: 4 bits, an 8-bit scale for 64 weights, and a float32 scale for 256 of those."""


def build_on_meta(config: PretrainedConfig, *, dtype: torch.dtype, attention: str | None = None) -> PreTrainedModel:
    """The causal language model of a config on the meta device, in training mode."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):  # in another type transformers would change torch's default for every thread
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            copy.deepcopy(config), attn_implementation=attention, dtype=torch.float32
        )
    model.config.use_cache = False
    model.get_input_embeddings().padding_idx = None
    return model.to(dtype).train()


def fakify(model: nn.Module) -> None:
    """Replace meta parameters and buffers by fake ones, inside a FakeTensorMode. Tied ones stay tied."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for name, parameter in [*module.named_parameters(recurse=False, remove_duplicate=False)]:
            if id(parameter) not in made:
                fake = torch.empty(parameter.shape, dtype=parameter.dtype)
                made[id(parameter)] = nn.Parameter(fake, requires_grad=parameter.requires_grad)
                vars(made[id(parameter)]).update(vars(parameter))
            setattr(module, name, made[id(parameter)])
        for name, buffer in [*module.named_buffers(recurse=False, remove_duplicate=False)]:
            if id(buffer) not in made:
                made[id(buffer)] = torch.empty(buffer.shape, dtype=buffer.dtype)
            setattr(module, name, made[id(buffer)])


class _DequantisedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: tuple[int, int]) -> Tensor:
        ctx.shape = shape
        return F.linear(x, x.new_empty(shape))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] @ grads[0].new_empty(ctx.shape), None


class Nf4Linear(nn.Linear):
    """Allocates like bitsandbytes' Linear4bit: packed weights, and a dequantised copy for each product."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        packed = torch.empty(round(linear.weight.numel() * NF4_BYTES), dtype=torch.uint8, device=linear.weight.device)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _DequantisedLinear.apply(x, (self.out_features, self.in_features))
        # peft copies the product of a 4-bit layer before it adds the adapter's.
        return out.clone() if self.bias is None else out + self.bias.to(out.dtype)


def quantise(model: Any) -> None:
    """Give every linear layer but the output head packed 4-bit weights, as loading does for qlora."""
    head = model.get_output_embeddings()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and child is not head:
                setattr(module, name, Nf4Linear(child))
    model.is_quantized = True


def traced_batch(lengths: tuple[int, ...], target_fraction: float = 1.0) -> FlatBatch:
    """A batch of documents that feed `lengths` tokens, a share of which are targets. Call it outside of fake mode.

    Its lookups are made here, since they need values, which fake tensors do not have.
    """
    documents = []
    for length in lengths:
        supervised = np.arange(length + 1) > length - max(1, round(length * target_fraction))
        documents.append((np.zeros(length + 1, dtype=np.int64), supervised))
    batch = flatten(documents)
    _ = batch.target_rows, batch.buckets
    return batch


def fake_batch(batch: FlatBatch, mode: Any) -> FlatBatch:
    """A batch whose tokens are fake; its lookups stay real."""
    tokens = {name: getattr(batch, name) for name in ("input_ids", "position_ids", "targets", "cu_seqlens")}
    return replace(batch, **{name: mode.from_tensor(tensor) for name, tensor in tokens.items()})


class GpuKernels(TorchFunctionMode):
    """Lets this thread allocate as the kernels of a GPU do, where they need other memory than the CPU's.

    Attention, dropout, and the layer norm, which autocast computes in float32 there. Only calls of this thread are
    seen. In the backward pass autograd turns such modes off: a model with checkpointing is told of it by `recompute`.
    """

    def __init__(self, *, flash: bool) -> None:
        """flash: the GPU has flash attention (Ampere or newer)."""
        super().__init__()
        self.flash = flash

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return _gpu_attention(self.flash, *args, **kwargs)
        if func is F.dropout:
            return _gpu_dropout(*args, **kwargs)
        if func is F.layer_norm:
            return _gpu_layer_norm(*args, **kwargs)
        return func(*args, **kwargs)

    def recompute(self, model: Any) -> None:
        """Let the layers of a model with checkpointing run once more as they ran the first time."""
        enable_checkpointing(model, context_fn=lambda: (contextlib.nullcontext(), self))


def _gpu_dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return torch.native_dropout(input, p, True)[0] if training and p > 0 else input


def _gpu_layer_norm(
    input: Tensor, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Tensor:
    if not torch.is_autocast_enabled("cpu"):
        return F.layer_norm(input, normalized_shape, weight, bias, eps)
    with torch.autocast("cpu", enabled=False):
        weight, bias = (None if x is None else x.float() for x in (weight, bias))
        return F.layer_norm(input.float(), normalized_shape, weight, bias, eps)


def _gpu_attention(
    flash: bool,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Flash attention for half precision without a mask, otherwise the memory-efficient kernel; where heads are grouped
    products and a softmax that hold all scores, since that kernel has no groups (check_batch_size_and_num_heads_dense
    of torch's sdp_utils_cpp.h)."""
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = (x.to(dtype) for x in (query, key, value))
    if flash and attn_mask is None and query.dtype in (torch.float16, torch.bfloat16):
        return flash_attention(query, key, value, dropout_p, is_causal, scale)
    if enable_gqa and key.shape[1] != query.shape[1]:
        return math_attention(query, key, value, attn_mask, is_causal, scale)
    bias = None
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(~attn_mask, float("-inf"))
        bias = attn_mask.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    return efficient_attention(query, key, value, bias, dropout_p, is_causal, scale)
