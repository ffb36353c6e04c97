"""The user's model without weights: built from its config alone, on fake tensors, as it would be trained.

Fake tensors live on the CPU, since a torch without CUDA cannot pretend to have it. `as_on_gpu` therefore lets them say
that they are on a GPU, and replaces the few functions whose GPU kernels allocate other memory than the CPU's:
attention, dropout, what autocast computes in fp32.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tunesmith.fast import cross_entropy, varlen
from tunesmith.fast.attention import FlatMask
from tunesmith.fast.layout import FlatBatch, flatten

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes a weight takes in NF4: 4 bits, an 8-bit scale for 64 weights, and a float32 scale for 256 of those."""


def build_on_meta(config: PretrainedConfig, *, dtype: torch.dtype, attention: str | None = None) -> PreTrainedModel:
    """The causal language model of a config on the meta device, in training mode."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    model.config.use_cache = False
    model.get_input_embeddings().padding_idx = None
    return model.to(dtype).train()


def fakify(model: nn.Module) -> None:
    """Replace meta parameters and buffers by fake ones, inside a FakeTensorMode. Tied ones stay tied."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if id(parameter) not in made:
                    fake = torch.empty(parameter.shape, dtype=parameter.dtype)
                    made[id(parameter)] = nn.Parameter(fake, requires_grad=parameter.requires_grad)
                module._parameters[name] = made[id(parameter)]  # type: ignore[assignment]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                if id(buffer) not in made:
                    made[id(buffer)] = torch.empty(buffer.shape, dtype=buffer.dtype)
                module._buffers[name] = made[id(buffer)]


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


def quantise(model: nn.Module, head: nn.Module) -> None:
    """Give every linear layer but the output head and the adapters packed 4-bit weights."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and child is not head and not child.weight.requires_grad:
                setattr(module, name, Nf4Linear(child))


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


class _One:
    """The gradient of the loss as a number that can be looked at."""

    device = torch.device("cpu")

    def item(self) -> float:
        return 1.0


@contextlib.contextmanager
def without_values() -> Iterator[None]:
    """Lets the fast path run on fake tensors, which have no values and cannot become tensors of another class."""
    from torch._subclasses.fake_tensor import unset_fake_temporarily

    make_mask = FlatMask.of
    scale: Any = cross_entropy._Totals.scale

    def of(flat: FlatBatch) -> FlatMask:
        with unset_fake_temporarily():
            return make_mask(flat)

    with (
        mock.patch.object(FlatMask, "of", staticmethod(of)),
        mock.patch.object(cross_entropy._Totals, "scale", lambda totals, _: scale(totals, _One())),
    ):
        yield


@contextlib.contextmanager
def as_on_gpu(*, flash: bool) -> Iterator[None]:
    """Allocate as GPU kernels do. Functions are replaced, not intercepted, so that recomputation sees them too.

    flash: the GPU has flash attention (Ampere or newer).
    """
    from torch._subclasses.fake_tensor import FakeTensor

    layer_norm_as_is = F.layer_norm

    def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        return torch.native_dropout(input, p, True)[0] if training and p > 0 else input

    def layer_norm(
        input: Tensor, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
    ) -> Any:
        if not torch.is_autocast_enabled("cpu"):
            return layer_norm_as_is(input, normalized_shape, weight, bias, eps)
        with torch.autocast("cpu", enabled=False):
            weight, bias = (None if x is None else x.float() for x in (weight, bias))
            return layer_norm_as_is(input.float(), normalized_shape, weight, bias, eps)

    patches: list[Any] = [
        mock.patch.object(F, "scaled_dot_product_attention", functools.partial(_gpu_attention, flash)),
        mock.patch.object(F, "dropout", dropout),
        mock.patch.object(F, "layer_norm", layer_norm),
        mock.patch.object(FakeTensor, "is_cuda", property(lambda _: True), create=True),
        mock.patch.object(varlen, "_has_flash_attention", return_value=flash),
        mock.patch.object(cross_entropy.Workspace, "logits", lambda _, like, rows, size: like.new_empty(rows, size)),
        mock.patch.object(cross_entropy, "gradient_in_place_triton", lambda logits, *_: logits.new_empty(len(logits))),
        mock.patch.object(cross_entropy, "_has_triton", return_value=True),
    ]
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield


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
    """Flash attention for half precision without a mask, otherwise the memory-efficient kernel."""
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = (x.to(dtype) for x in (query, key, value))
    if flash and attn_mask is None and query.dtype in (torch.float16, torch.bfloat16):
        attend = torch.ops.aten._scaled_dot_product_flash_attention
        return attend(query, key, value, dropout_p, is_causal, False, scale=scale)[0]  # type: ignore[no-any-return]
    if enable_gqa and key.shape[1] != query.shape[1]:
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    bias = None
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(~attn_mask, float("-inf"))
        bias = attn_mask.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    return efficient(query, key, value, bias, True, dropout_p, is_causal, scale=scale)[0]  # type: ignore[no-any-return]
