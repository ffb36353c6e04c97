"""The layers of one model that run in few launches, and the residual stream on its way through them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.compat import has_forward_hooks
from tunesmith.fast.attending.attention import FlatMask
from tunesmith.fast.device import Device
from tunesmith.fast.fused.layers import FINAL_NORMS, PLANNERS, Layer, Waiting, is_adapted, norm_of
from tunesmith.fast.fused.norm import Norm, add_norm
from tunesmith.fast.shadow import Copy, Shadow

HALF = (torch.bfloat16, torch.float16)
ALIGNED_ROWS = 64
"""The head's copy has a multiple of so many rows: Hopper's matrix products want rows of 16 bytes."""


@dataclass
class Found:
    """What was found in a model: every layer by its module, the last norm, and what that rests on. No layers where one
    is of a kind that is not known."""

    dtype: torch.dtype
    layers: dict[nn.Module, Layer]
    norm: Norm | None
    modules: list[nn.Module]
    """Modules whose forward is not called: none of them may have hooks."""
    adapters: list[Any]
    """Modules with an adapter, which may be switched off or merged."""
    parameters: list[tuple[Tensor, bool]]
    """Every parameter of the model and whether it trains."""


class Stream:
    """Decides for each pass whether a model's layers run in few launches, and holds what is between two of them.

    They do on a device that can, in 16 bits, when every layer is of a known kind and whole on this process, no module
    inside has hooks and no layer is checkpointed. Otherwise the layers run as they would without.
    """

    def __init__(self, model: Any, layers: list[tuple[str, nn.Module, nn.Module]], device: Device) -> None:
        self._model, self._layers, self.device = model, layers, device
        self._shadow = Shadow(device)
        self._found: Found | None = None
        self._waiting = Waiting()
        self._head: Copy | None = None
        self._head_bias: Copy | None = None
        self.active = self._usable = False

    @contextlib.contextmanager
    def open(self, *, weights_changed: bool) -> Iterator[None]:
        """Inside, one flat batch goes through the model. weights_changed: since the last one, as far as is known."""
        # Weights that are split over processes are whole only while their layer runs: nothing may hold on to them.
        parameters = list(self._model.parameters()) if self.device.fused else []
        self._usable = self.device.fused and not any(hasattr(parameter, "to_local") for parameter in parameters)
        self.active = self._usable and self._ready(parameters)
        self._shadow.renew(weights_changed=weights_changed)
        try:
            yield
        finally:
            self.active = False
            self._waiting.take()

    def layer(self, layer: nn.Module, mask: FlatMask, arguments: dict[str, Any], x_1TE: Tensor) -> Tensor:
        """The residual stream [1, T, E] after a layer, without what waits."""
        assert self._found is not None
        found = self._found
        return found.layers[layer].run(x_1TE.flatten(0, 1), self._waiting, mask.flat, arguments, found.dtype)[None]

    def last_norm(self, original: Any, x_1TE: Tensor) -> Tensor:
        """The norm behind the last layer, which adds what waits."""
        if not self.active:
            return original(x_1TE)  # type: ignore[no-any-return]
        assert self._found is not None
        assert self._found.norm is not None
        return add_norm(x_1TE.flatten(0, 1), *self._waiting.take(), self._found.norm, self._found.dtype)[1][None]

    def head_copies(self, head: nn.Linear) -> tuple[Tensor, Tensor | None] | None:
        """The head's matrix and bias in the type of the products, of a multiple of 64 rows, those behind the
        vocabulary zero. None where the head is to be taken as it is."""
        dtype = _product_dtype(self._model)
        if not self._usable or dtype not in HALF:
            return None
        weight, bias = head.weight, head.bias
        if weight.dtype == dtype and len(weight) % 8 == 0:
            return None
        rows = -(-len(weight) // ALIGNED_ROWS) * ALIGNED_ROWS
        if self._head is None or not self._head.is_of([weight], dtype):
            self._head = self._shadow.copy([weight], dtype, rows)
            self._head_bias = None if bias is None else self._shadow.copy([bias], dtype, rows)
        return self._head.buffer, None if self._head_bias is None else self._head_bias.buffer

    def _ready(self, parameters: list[Tensor]) -> bool:
        dtype = _product_dtype(self._model)
        if dtype not in HALF or type(self._model).__name__ not in PLANNERS:
            return False
        if any(layer.gradient_checkpointing and layer.training for _, layer, _ in self._layers):
            return False
        if not self._is_current(dtype, parameters):
            self._found = self._head = self._head_bias = None
            self._shadow.clear()
            self._found = self._find(dtype)
        assert self._found is not None
        found = self._found
        return (
            bool(found.layers)
            and not any(map(has_forward_hooks, found.modules))
            and not any(adapter.disable_adapters or adapter.merged for adapter in found.adapters)
        )

    def _is_current(self, dtype: torch.dtype, parameters: list[Tensor]) -> bool:
        found = self._found
        if found is None or found.dtype != dtype:
            return False
        return len(parameters) == len(found.parameters) and all(
            parameter is known and parameter.requires_grad == trained
            for parameter, (known, trained) in zip(parameters, found.parameters, strict=True)
        )

    def _find(self, dtype: torch.dtype) -> Found:
        model, layers = self._model, dict[nn.Module, Layer]()
        last = last_norm_of(model)
        norm = None if last is None else norm_of(last[1])
        for _, layer, attention in self._layers:
            parts = None if norm is None else PLANNERS[type(model).__name__](layer, attention, self._shadow, dtype)
            if parts is None:
                layers.clear()
                self._shadow.clear()
                break
            layers[layer] = parts
        inside = [module for layer in layers for module in layer.modules() if module is not layer]
        parameters = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        return Found(dtype, layers, norm, inside, list(filter(is_adapted, inside)), parameters)


def last_norm_of(model: Any) -> tuple[str, nn.Module] | None:
    """Name and module of the norm behind the last layer."""
    for name in FINAL_NORMS:
        module = getattr(model.base_model, name, None)
        if module is not None:
            return name, module
    return None


def _product_dtype(model: Any) -> torch.dtype:
    """The type of the matrix products of the pass that begins."""
    weight: Tensor = model.get_input_embeddings().weight
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
