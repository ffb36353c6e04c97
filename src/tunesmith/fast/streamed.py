"""Frozen layers that stay in RAM: each is copied to the device just before it runs, forward and once more backward.

The frozen weights of a layer lie in one pinned piece of RAM, and go in one copy to one of two places on the device.
While a layer computes, the next one arrives on a stream of its own. Backward computes each layer again before it takes
its gradients (Chen et al., 2016), so that all it looks at was made from the weights that are there.

What trains (adapters) stays on the device, and so does what stands outside the layers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tunesmith.errors import ModelError
from tunesmith.fast.families import family_of, layer_modules

ALIGNED = 256
"""Bytes at whose multiples a tensor begins."""
PLACES = 2


def streamed_bytes(layer: nn.Module) -> int:
    """What a place for the layer's frozen weights takes."""
    return sum(_aligned(parameter) for parameter in _frozen(layer))


def stream_layers(model: Any, device: torch.device, *, preserve_rng_state: bool) -> LayerStream:
    """Keep the frozen weights of a model's layers in RAM; everything else goes to `device`.

    model: with its adapter, the fast path applied, on the CPU or on `device`. preserve_rng_state: a layer draws random
    numbers, which backward must draw again. Raises ModelError where nothing is frozen.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    layers = [layer for _, layer, _ in layer_modules(base, family_of(base))]
    if not any(_frozen(layer) for layer in layers):
        raise ModelError(
            "train.offload: layers: every weight trains, so that none can stay in RAM. Use train.method: lora."
        )
    stream = LayerStream([_Held.of(layer, device) for layer in layers], device)
    _move_others(model, {id(p) for layer in layers for p in _frozen(layer)}, device)
    for number, layer in enumerate(layers):
        layer.forward = functools.partial(_forward, layer.forward, stream, number, preserve_rng_state)
    return stream


@dataclass
class _Held:
    """The frozen weights of one layer."""

    parameters: list[nn.Parameter]
    ram: Tensor
    """[bytes], pinned where there is a GPU."""

    @classmethod
    def of(cls, layer: nn.Module, device: torch.device) -> _Held:
        parameters = _frozen(layer)
        ram = torch.empty(sum(map(_aligned, parameters)), dtype=torch.uint8, pin_memory=device.type == "cuda")
        held = cls(parameters, ram)
        for parameter, view in zip(parameters, held.views(ram), strict=True):
            view.copy_(parameter.data)
            parameter.data = view
        return held

    def views(self, place: Tensor) -> list[Tensor]:
        """The weights as they lie in so many bytes."""
        views, begin = [], 0
        for parameter in self.parameters:
            piece = place[begin : begin + parameter.numel() * parameter.element_size()]
            views.append(piece.view(parameter.dtype).view(parameter.shape))
            begin += _aligned(parameter)
        return views

    def show(self, place: Tensor) -> None:
        """Let the layer's parameters be the weights in `place`."""
        for parameter, view in zip(self.parameters, self.views(place), strict=True):
            parameter.data = view


@dataclass
class _Place:
    """Room for one layer on the device."""

    buffer: Tensor
    number: int | None = None
    """Of the layer that is in it, or on its way there."""
    arrived: Any = None
    """The event after its copy, on a GPU."""


@dataclass
class LayerStream:
    """The layers of a model on their way to the device and out of it."""

    layers: Sequence[_Held]
    device: torch.device
    num_copies: int = 0
    """Layers that were copied to the device so far."""
    _places: list[_Place] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        size = max(len(held.ram) for held in self.layers)
        self._places = [_Place(torch.empty(size, dtype=torch.uint8, device=self.device)) for _ in range(PLACES)]
        self._side = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    def fetch(self, number: int, direction: int) -> None:
        """Let layer `number` be on the device, and the next one in that direction (1 or -1) come while it computes."""
        place = self._place_of(number) or self._load(number, keep=None)
        if place.arrived is not None:
            torch.cuda.current_stream(self.device).wait_event(place.arrived)
        self.layers[number].show(place.buffer)
        following = number + direction
        if 0 <= following < len(self.layers) and self._place_of(following) is None:
            self._load(following, keep=place)

    def _place_of(self, number: int) -> _Place | None:
        return next((place for place in self._places if place.number == number), None)

    def _load(self, number: int, keep: _Place | None) -> _Place:
        """Begin to copy a layer to the place that is not kept; what lay there is in RAM still."""
        place = next(place for place in self._places if place is not keep)
        if place.number is not None:
            held = self.layers[place.number]
            held.show(held.ram)
        place.number = number
        self.num_copies += 1
        ram = self.layers[number].ram
        if self._side is None:
            place.buffer[: len(ram)].copy_(ram)
            return place
        self._side.wait_stream(torch.cuda.current_stream(self.device))  # whose work so far looks at what lay there
        with torch.cuda.stream(self._side):
            place.buffer[: len(ram)].copy_(ram, non_blocking=True)
            place.arrived = self._side.record_event()
        return place


def _forward(
    original: Callable[..., Any], stream: LayerStream, number: int, preserve: bool, *args: Any, **kwargs: Any
) -> Any:
    """A layer's forward with its weights there; computed again in backward where gradients are taken."""
    hidden, rest = (args[0], args[1:]) if args else (kwargs.pop("hidden_states"), ())
    gradients = torch.is_grad_enabled()

    def run(hidden: Tensor) -> Any:
        again = torch.is_grad_enabled()
        stream.fetch(number, -1 if again else 1)
        if again or not gradients:
            return original(hidden, *rest, **kwargs)
        with torch.enable_grad():  # as backward will: without gradients some parts compute in another way
            return _detached(original(hidden.detach().requires_grad_(), *rest, **kwargs))

    if not gradients:
        return run(hidden)
    asking = hidden if hidden.requires_grad else hidden.detach().requires_grad_()  # of frozen embeddings
    return checkpoint(run, asking, use_reentrant=True, preserve_rng_state=preserve)


def _detached(output: Any) -> Any:
    if isinstance(output, tuple):
        return tuple(_detached(value) for value in output)
    return output.detach() if isinstance(output, Tensor) else output


def _frozen(layer: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in layer.parameters() if not parameter.requires_grad]


def _aligned(parameter: Tensor) -> int:
    return -(-parameter.numel() * parameter.element_size() // ALIGNED) * ALIGNED


def _move_others(model: nn.Module, streamed: set[int], device: torch.device) -> None:
    """Everything but the streamed weights, in place: parameters stay the objects that they are."""
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if id(parameter) not in streamed:
                parameter.data = parameter.data.to(device)
            state = getattr(parameter, "quant_state", None)
            if state is not None:  # scales of 4-bit weights: a thirtieth of them, which stays there
                state.to(device)
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, buffer.to(device))
