"""Whether a model's layers are still those of transformers: other tools exchange classes and forwards in place."""

from __future__ import annotations

import functools
from typing import Any

from torch import nn

from tunesmith.compat import has_accelerate_hook
from tunesmith.errors import ModelError

_OWN = ("transformers", "torch")


def check_untouched(model: Any, layers: list[tuple[str, nn.Module, nn.Module]]) -> None:
    """Raise ModelError where another tool (Liger, Unsloth ...) has replaced a part of a layer, or the model's forward.

    Quantised and adapted linear layers are called as they are, so that theirs may be of any make.
    """
    for name, layer, _ in layers:
        for part, module in layer.named_modules():
            _check(type(model).__name__, f"{name}.{part}".rstrip("."), module)
    _check(type(model).__name__, "the model", model)


def _check(model_name: str, where: str, module: nn.Module) -> None:
    kind = type(module)
    if not _is_own(kind.__module__) and not hasattr(module, "in_features"):
        found = f"{kind.__name__} of {kind.__module__}"
    elif (forward := _foreign_forward(module)) is not None:
        found = f"{kind.__name__} with a forward of {forward}"
    else:
        return
    raise ModelError(
        f"{model_name}: {where} is {found}, put there by another tool. The fast path stands in for layers of "
        "transformers alone: load the model in a process in which no other tool patches it."
    )


def _foreign_forward(module: nn.Module) -> str | None:
    """The module of a forward that was put on the instance or its class; accelerate's hooks are no such thing."""
    forward = vars(module).get("forward")
    if forward is None:
        forward = None if hasattr(module, "in_features") else type(module).forward
    elif has_accelerate_hook(module):
        return None
    while isinstance(forward, functools.partial):
        forward = forward.func
    where = str(getattr(forward, "__module__", None) or "an unknown module")
    return None if forward is None or _is_own(where) else where


def _is_own(module: str) -> bool:
    return module.split(".")[0] in _OWN
