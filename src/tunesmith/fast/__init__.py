"""Speed, applied to one model instance: flat batches, document-safe attention, a loss that never holds the logits.

    applied = fast.apply(model)                       # a causal language model of transformers, before peft wraps it
    batch = fast.flatten([(ids, supervised), ...])
    model(flat=batch, denominator=num_targets).loss.backward()
    applied.restore()

Every other call of the model, generation with a cache included, behaves as before. Nothing in a library is patched: the
parts listed in `Applied.replaced` get a `forward` of their own on the instance, and `restore` takes it away.

    layout.py          FlatBatch, and the gathers into padded buckets
    attention.py       causal attention that no document leaves
    families.py        projections and options of each architecture
    cross_entropy.py   the loss of a linear head, chunk by chunk
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from tunesmith.errors import ModelError
from tunesmith.fast.attention import FlatMask
from tunesmith.fast.cross_entropy import linear_cross_entropy, linear_losses
from tunesmith.fast.families import FlatAttention, attention_modules, family_of
from tunesmith.fast.layout import FlatBatch, flatten

__all__ = ["Applied", "FlatBatch", "FlatOutput", "apply", "flatten"]


@dataclass
class FlatOutput(ModelOutput):
    """What model(flat=...) returns.

    loss: float32 scalar, the sum of the target losses / denominator. With flat_metrics=True (under no_grad) also
    num_correct: scalar, targets that were the most likely token; document_loss: float64 [documents], sum of a document.
    """

    loss: Tensor | None = None
    num_correct: Tensor | None = None
    document_loss: Tensor | None = None


@dataclass
class Applied:
    """What `apply` replaced on one model."""

    model: PreTrainedModel
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


def apply(model: PreTrainedModel, *, compile: bool = False) -> Applied:
    """Make `model(flat=batch, denominator=N)` work, fast and exact per document.

    Raises ModelError when the model's structure is not known or it already is fast.
    """
    family = family_of(model)
    attentions = attention_modules(model, family)
    if isinstance(model.__dict__.get("forward"), functools.partial):
        raise ModelError(f"{type(model).__name__}: the fast path is already applied. Restore it first.")
    applied = Applied(model, [])
    for name, module in attentions.items():
        _replace(applied, name, module, functools.partial(_attention_forward, family.attend, module))
    _replace(applied, "model", model, functools.partial(_model_forward, model))
    return applied


def _replace(applied: Applied, name: str, module: nn.Module, forward: Any) -> None:
    """Put `forward(original, ...)` on the instance. A partial copies along with its module in deepcopy."""
    applied._originals.append((module, module.__dict__.get("forward")))
    original = module.forward
    replacement = functools.partial(forward, original)
    functools.update_wrapper(replacement, original)
    module.__dict__["forward"] = replacement
    applied.replaced.append(name)


def _attention_forward(
    attend_flat: FlatAttention, module: Any, original: Any, *args: Any, **kwargs: Any
) -> tuple[Any, ...]:
    mask = kwargs.get("attention_mask")
    if mask is None and args:
        mask = next((argument for argument in args if isinstance(argument, FlatMask)), None)
    if not isinstance(mask, FlatMask):
        output: tuple[Any, ...] = original(*args, **kwargs)
        return output
    hidden = args[0] if args else kwargs["hidden_states"]
    return attend_flat(module, hidden, mask.flat, kwargs), None


def _model_forward(
    model: Any,
    original: Any,
    *args: Any,
    flat: FlatBatch | None = None,
    denominator: float | None = None,
    flat_metrics: bool = False,
    **kwargs: Any,
) -> Any:
    if flat is None:
        return original(*args, **kwargs)
    hidden_TE = model.base_model(
        input_ids=flat.input_ids[None],
        position_ids=flat.position_ids[None],
        attention_mask=FlatMask.of(flat),
        use_cache=False,
    ).last_hidden_state[0]
    rows = flat.target_rows
    hidden_NE = hidden_TE if rows is None else hidden_TE.index_select(0, rows)
    targets_N = flat.targets if rows is None else flat.targets.index_select(0, rows)
    head = model.get_output_embeddings()
    over = float(denominator if denominator is not None else max(flat.num_targets, 1))
    if torch.is_grad_enabled():
        return FlatOutput(loss=linear_cross_entropy(hidden_NE, head.weight, head.bias, targets_N, over))
    losses, correct = linear_losses(hidden_NE, head.weight, head.bias, targets_N)
    output = FlatOutput(loss=(losses.sum(dtype=torch.float64) / over).float())
    if flat_metrics:
        documents = flat.document_of_token
        documents = documents if rows is None else documents.index_select(0, rows)
        sums = torch.zeros(len(flat.lengths), dtype=torch.float64, device=losses.device)
        output.document_loss = sums.index_add_(0, documents, losses.double())
        output.num_correct = correct.sum()
    return output
