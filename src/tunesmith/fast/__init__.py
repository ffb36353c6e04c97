"""Speed, applied to one model instance: flat batches, document-safe attention, a loss that never holds the logits.

    applied = fast.apply(model)                       # a causal language model of transformers, before peft wraps it
    batch = fast.flatten([(ids, supervised), ...])
    model(flat=batch, denominator=num_targets).loss.backward()
    applied.restore()

Further passes of a step that accumulates may say weights_changed=False: copies of the weights are not made again.
Every other call of the model, generation with a cache included, behaves as before. Nothing in a library is patched: the
parts listed in `Applied.replaced` get a `forward` of their own on the instance, and `restore` takes it away.

    device.py          what the device can do
    batches/           what a model is fed, and the sizes that it is filled up to
    untouched.py       a model that another tool has patched is refused
    families.py        the supported architectures: projections and options of their attention
    layers.py          whole layers, where element-wise chains cost time
    fused/             whole layers in few launches, on a GPU with Triton; kernels/ holds its kernels
    shadow.py          one narrow copy of each weight a step
    proof.py           the kernels tried on the user's own model before they are relied on
    linear.py          float32 products on processors that are not Intel's
    adapters.py        low-rank adapters inside the product of their layer
    recompute.py       activations that backward computes again
    pointwise.py       norms, rotary embedding and gates in few passes
    attending/         attention that no document leaves
    optimizers/        what moves the weights, where torch's AdamW does not do
    streamed.py        frozen layers that stay in RAM, copied to the device as they run
    embedding.py       one gradient for an embedding that is also the head
    cross_entropy.py   the loss of a linear head, chunk by chunk
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput

from tunesmith.compat import checkpointed
from tunesmith.errors import ModelError
from tunesmith.fast.adapters import adapted_forward, can_fuse
from tunesmith.fast.attending.attention import FlatMask
from tunesmith.fast.attending.rope import DocumentRope, rotary_modules
from tunesmith.fast.batches.layout import FlatBatch, flatten
from tunesmith.fast.cross_entropy import (
    Denominator,
    Head,
    Workspace,
    linear_cross_entropy,
    module_cross_entropy,
    plain_logits,
    token_losses,
)
from tunesmith.fast.device import Device
from tunesmith.fast.embedding import SharedGradient, can_share, tied_embedding
from tunesmith.fast.families import Family, FlatAttention, family_of, layer_modules
from tunesmith.fast.fused.stream import Stream, last_norm_of
from tunesmith.fast.linear import linear_forward
from tunesmith.fast.pointwise import Kernels
from tunesmith.fast.untouched import check_untouched

__all__ = ["Applied", "Device", "FlatBatch", "FlatOutput", "apply", "flatten", "fuse_adapters"]

_CALL_CHECKPOINTS = "__call__" in vars(GradientCheckpointingLayer)
"""transformers up to 5.17 checkpoints a layer in __call__; later releases in the forward that is replaced here."""


@dataclass
class FlatOutput(ModelOutput):
    """What model(flat=...) returns.

    loss: float32 scalar, the sum of the target losses / denominator. With flat_metrics=True (under no_grad) also
    num_correct: scalar, targets that no token beat; document_loss: float64 [documents], the sum of each document, in
    the order in which they were given to `flatten`.
    """

    loss: Tensor | None = None
    num_correct: Tensor | None = None
    document_loss: Tensor | None = None


@dataclass
class Applied:
    """What `apply` replaced on one model."""

    model: nn.Module
    replaced: list[str]
    _originals: list[tuple[nn.Module, Any]] = field(default_factory=list, repr=False)

    def restore(self) -> None:
        """Give the model back untouched."""
        for module, original in reversed(self._originals):
            if original is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = original
        self._originals.clear()
        self.replaced.clear()


def apply(model: PreTrainedModel, *, compile: bool = False, device: Device | None = None) -> Applied:
    """Make `model(flat=batch, denominator=N)` work, fast and exact per document.

    compile: let torch.compile fuse the element-wise passes (pays on CUDA). device: what is known of the device; by
    default that on which the model is, so move the model first. Raises ModelError when the model's structure
    is not known or the fast path already is applied.
    """
    family = family_of(model)
    layers = layer_modules(model, family)
    if isinstance(model.__dict__.get("forward"), functools.partial):
        raise ModelError(f"{type(model).__name__}: the fast path is already applied. Restore it first.")
    check_untouched(model, layers)
    device = device or _device_of(model)
    kernels = Kernels.compiled(device) if compile else Kernels(device=device)
    applied = Applied(model, [])
    stream = Stream(model, layers, device)
    for name, layer, attention in layers:
        forward = functools.partial(_attention_forward, attention, family.attend, kernels)
        _replace(applied, f"{name}.{family.attention}", attention, forward)
        if family.layer is not None:
            _replace(applied, name, layer, functools.partial(_layer_forward, layer, family, kernels, stream))
        for part, module in layer.named_modules():
            if type(module) is nn.Linear:
                _replace(applied, f"{name}.{part}", module, functools.partial(linear_forward, module, device))
    if not device.is_cuda:
        for name, module in model.named_modules():
            if type(module) is nn.LayerNorm:
                _replace(applied, name, module, functools.partial(_layer_norm_forward, module))
    rope = DocumentRope()
    for name, module in rotary_modules(model):
        _replace(applied, name, module, functools.partial(rope.forward, module))
    last_norm = last_norm_of(model)
    if device.fused and last_norm is not None:
        name, norm = last_norm
        _replace(applied, f"{model.base_model_prefix}.{name}", norm, functools.partial(_norm_forward, norm, stream))
    run = functools.partial(_model_forward, model, family, rope, stream, Workspace(device))
    _replace(applied, "model", model, run)
    return applied


def fuse_adapters(model: nn.Module, *, device: Device | None = None) -> Applied:
    """Make the low-rank adapters that peft put on a model fast. Those of a kind that is not known stay peft's."""
    device = device or _device_of(model)
    applied = Applied(model, [])
    for name, module in model.named_modules():
        if can_fuse(module):
            _replace(applied, name, module, functools.partial(adapted_forward, module, device))
    return applied


def _device_of(model: nn.Module) -> Device:
    return Device.of(next(model.parameters()).device)


def _replace(applied: Applied, name: str, module: nn.Module, forward: Callable[..., Any]) -> None:
    """Put forward(original, ...) on the instance. A partial is copied along with its module by deepcopy."""
    applied._originals.append((module, module.__dict__.get("forward")))
    original = module.forward
    replacement = functools.partial(forward, original)
    functools.update_wrapper(replacement, original)
    module.__dict__["forward"] = replacement
    applied.replaced.append(name)


def _flat_mask(args: tuple[Any, ...], kwargs: dict[str, Any]) -> FlatMask | None:
    """The mask of a flat batch among a layer's arguments; None in every other call."""
    mask = kwargs.get("attention_mask")
    if mask is None:
        mask = next((argument for argument in args if isinstance(argument, FlatMask)), None)
    return mask if isinstance(mask, FlatMask) else None


def _attention_forward(
    module: Any, attend_flat: FlatAttention, kernels: Kernels, original: Any, *args: Any, **kwargs: Any
) -> Any:
    mask = _flat_mask(args, kwargs)
    if mask is None:
        return original(*args, **kwargs)
    hidden_1TE = args[0] if args else kwargs["hidden_states"]
    return attend_flat(module, hidden_1TE, mask.flat, kwargs, kernels), None


def _layer_forward(
    layer: Any, family: Family, kernels: Kernels, stream: Stream, original: Any, *args: Any, **kwargs: Any
) -> Any:
    mask = _flat_mask(args, kwargs)
    if mask is None:
        return original(*args, **kwargs)
    hidden_1TE = args[0] if args else kwargs["hidden_states"]
    if stream.active:
        out_1TE = stream.layer(layer, mask, kwargs, hidden_1TE)
        return (out_1TE, None) if family.returns_weights else out_1TE
    assert family.layer is not None
    run = functools.partial(family.layer, layer, mask, kwargs, kernels)
    if layer.gradient_checkpointing and layer.training and not _CALL_CHECKPOINTS:
        return checkpointed(layer, run, hidden_1TE)
    return run(hidden_1TE)


def _norm_forward(norm: Any, stream: Stream, original: Any, x_1TE: Tensor) -> Tensor:
    return stream.last_norm(original, x_1TE)


def _layer_norm_forward(norm: nn.LayerNorm, original: Any, x: Tensor) -> Tensor:
    """torch has none on a CPU of a float32 sum with a weight in bfloat16; on a GPU autocast widens the weight."""
    if norm.weight is None or norm.weight.dtype == x.dtype:
        return original(x)  # type: ignore[no-any-return]
    bias = None if norm.bias is None else norm.bias.to(x.dtype)
    return nn.functional.layer_norm(x, norm.normalized_shape, norm.weight.to(x.dtype), bias, norm.eps)


def _model_forward(
    model: Any,
    family: Family,
    rope: DocumentRope,
    stream: Stream,
    workspace: Workspace,
    original: Any,
    *args: Any,
    flat: FlatBatch | None = None,
    denominator: Denominator | None = None,
    flat_metrics: bool = False,
    weights_changed: bool = True,
    **kwargs: Any,
) -> Any:
    if flat is None:
        return original(*args, **kwargs)
    if family.fixed_positions and flat.max_length > model.config.max_position_embeddings:
        raise ModelError(
            f"{type(model).__name__}: a document feeds {flat.max_length} tokens, the model has positions for "
            f"{model.config.max_position_embeddings}. Lower train.max_length."
        )
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    shared = SharedGradient() if torch.is_grad_enabled() and can_share(embedding, head) else None
    with rope.of(flat), stream.open(weights_changed=weights_changed):
        hidden_NE, targets_N = _hidden_of_targets(model, flat, shared, workspace.device)
    softcap = getattr(model.config, "final_logit_softcapping", None)
    plain = None
    if type(head) is nn.Linear:
        weight = head.weight if shared is None else head.weight.detach()
        plain = Head(weight, head.bias, softcap, shared, stream.head_copies(head))
    over = denominator if denominator is not None else float(max(flat.num_targets, 1))
    if torch.is_grad_enabled():
        if plain is not None:
            return FlatOutput(loss=linear_cross_entropy(hidden_NE, plain, targets_N, over, workspace))
        return FlatOutput(loss=module_cross_entropy(hidden_NE, head, softcap, targets_N, over))
    logits_of = head if plain is None else lambda hidden: plain_logits(hidden, plain, workspace)
    losses_N, correct_N = token_losses(hidden_NE, logits_of, softcap, targets_N, workspace.device)
    output = FlatOutput(loss=(losses_N.sum(dtype=torch.float64) / over).float())
    if flat_metrics:
        output.num_correct, output.document_loss = correct_N.sum(), flat.document_sums(losses_N)
    return output


def _hidden_of_targets(
    model: Any, flat: FlatBatch, shared: SharedGradient | None, device: Device
) -> tuple[Tensor, Tensor]:
    """Last hidden states [N, E] and targets [N] of the supervised positions."""
    embedding = model.get_input_embeddings()
    if shared is None:
        rows_TE = embedding(flat.input_ids)
    else:
        rows_TE = tied_embedding(embedding, flat.input_ids, shared, device)
    output = model.base_model(
        inputs_embeds=_widened(rows_TE, device)[None],
        position_ids=flat.position_ids[None],
        attention_mask=FlatMask.of(flat),
        use_cache=False,
    )
    hidden_TE, rows = output.last_hidden_state.flatten(0, 1), flat.target_rows
    if rows is None:
        return hidden_TE, flat.targets
    return hidden_TE.index_select(0, rows), flat.targets.index_select(0, rows)


def _widened(rows_TE: Tensor, device: Device) -> Tensor:
    """What the layers add up: on a CPU float32 under autocast, whatever type the weights are held in.

    In bfloat16, as weights held so would have it, the embedded model's loss on the embedded rows is 5.533 instead of
    5.499. On a GPU it would take 6 to 17% more memory beside an adapter (traced), and was not measured.
    """
    return rows_TE if device.is_cuda or not torch.is_autocast_enabled("cpu") else rows_TE.float()
