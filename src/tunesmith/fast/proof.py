"""The kernels of our own tried on the user's own model before they are relied on: loss and gradients against torch's.

Triton compiles kernels where they run, and needs a C compiler there; a release of it, a driver or a width that nobody
tried may fail, or be wrong. So two small batches go through the model, one with the kernels and one without.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tunesmith import fast
from tunesmith.fast.batches.layout import FlatBatch, flatten
from tunesmith.fast.device import Device

LENGTHS = (96, 40, 33, 7)
"""Tokens of the documents that are tried."""
TOLERANCE = {torch.bfloat16: 0.06, torch.float16: 0.02, torch.float32: 1e-3}
"""Largest difference of a gradient relative to its norm; of the loss a tenth of it. Rounding explains less."""


def proven_device(model: PreTrainedModel, dtype: torch.dtype, device: Device | None = None) -> tuple[Device, str]:
    """What may be relied on where the model is, and why that is less than the device has; empty where it is not.

    model: before the fast path is applied; afterwards as it was. dtype: of the matrix products in training.
    """
    device = device or Device.of(next(model.parameters()).device)
    if not (device.triton or device.fused):
        return device, ""
    plain = replace(device, triton=False, fused=False)
    try:
        with _undisturbed(model) as watched:
            expected, found = (_tried(model, watched, dtype, one) for one in (plain, device))
    except torch.OutOfMemoryError:
        return device, ""  # the rehearsal finds what fits
    except Exception as error:  # Triton, the compiler and the driver raise whatever they like
        first = str(error).strip().partition("\n")[0]
        return plain, f"kernels of Triton cannot be used here, so steps are slower ({type(error).__name__}: {first})"
    worst = max(_difference(one, other) for one, other in zip(found, expected, strict=True))
    if worst <= TOLERANCE[dtype]:
        return device, ""
    return plain, f"kernels of Triton are off here by {worst:.2g} of a gradient, so steps run without them, slower"


def _tried(model: PreTrainedModel, watched: list[Tensor], dtype: torch.dtype, device: Device) -> list[Tensor]:
    """Loss (ten times, since it is to differ by a tenth of what gradients may) and the gradients of `watched`."""
    applied = fast.apply(model, device=device)
    try:
        kind = model.device.type
        with torch.autocast(kind, dtype=dtype, enabled=dtype != torch.float32):
            loss = model(flat=_batch(model), denominator=float(sum(LENGTHS))).loss
        return [10 * loss.detach(), *(gradient.detach() for gradient in torch.autograd.grad(loss, watched))]
    finally:
        applied.restore()


def _batch(model: PreTrainedModel) -> FlatBatch:
    """Documents of tokens from all over the vocabulary; no random number is drawn."""
    size, longest = model.get_input_embeddings().weight.shape[0], getattr(model.config, "max_position_embeddings", None)
    lengths = [min(length, longest or length) for length in LENGTHS]
    rows = [[(position * 7919 + length * 104729) % size for position in range(length + 1)] for length in lengths]
    return flatten([(row, None) for row in rows]).to(model.device)


@contextlib.contextmanager
def _undisturbed(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """Without dropout and with gradients for a few parameters alone, which are given: those of the first and the last
    layer, whose gradients pass through everything."""
    parameters = list(model.parameters())
    trained, training = [parameter.requires_grad for parameter in parameters], model.training
    layers = [part for name, part in model.named_modules() if name.rpartition(".")[2].isdecimal()]
    watched = [parameter for layer in (layers[0], layers[-1]) for parameter in layer.parameters()]
    watched = list({id(one): one for one in watched if one.is_floating_point()}.values())
    try:
        model.eval()
        model.requires_grad_(False)
        for parameter in watched:
            parameter.requires_grad_(True)
        yield watched
    finally:
        for parameter, was in zip(parameters, trained, strict=True):
            parameter.requires_grad_(was)
        model.train(training)


def _difference(found: Tensor, expected: Tensor) -> float:
    """Relative to the norm of what was expected; infinite for what is not finite."""
    if found.dim() and float(expected.norm()) < 1e-6:  # a key's bias has no gradient but rounding
        return 0.0
    difference = float((found.float() - expected.float()).norm() / expected.float().norm())
    return difference if difference == difference else float("inf")
