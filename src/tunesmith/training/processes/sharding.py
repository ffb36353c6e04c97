"""Weights, gradients and the optimizer's state split over processes, by torch's `fully_shard` (FSDP2), on any device.

Each layer is gathered when it runs and let go of afterwards; gradients are averaged into the shards. Of a checkpoint
every process writes its share, and a run goes on with any number of processes, sharded or not.

Every forward pass is an exchange between all processes. So all of them make the same number of passes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from tunesmith.errors import TrainingError
from tunesmith.fast.families import family_of, layer_modules


def shard(model: Any, device: torch.device, num_processes: int) -> None:
    """Shard a model that the fast path was applied to, in place: before its optimizer is made.

    Raises TrainingError for weights that cannot be sharded together.
    """
    kinds = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    if len(kinds) > 1:
        names = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
        raise TrainingError(
            f"train.sharding: full: the weights that train are {names}, and only those of one type are sharded "
            "together. Set model.dtype: float32."
        )
    mesh = init_device_mesh(device.type, (num_processes,))
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    for _, layer, _ in layer_modules(base, family_of(base)):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)


def settle(model: Any) -> None:
    """Let go of what a forward pass without gradients left whole: what stands outside the layers."""
    if isinstance(model, FSDPModule):
        model.reshard()


@contextlib.contextmanager
def gradients_stay(model: Any) -> Iterator[None]:
    """Inside, gradients are not exchanged: those of all but the last micro-batch of a step."""
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded. All processes must ask together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def fill(target: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into one that may be sharded. Of a sharded one all processes take their part together."""
    with torch.no_grad():
        if isinstance(target, DTensor):
            value = distribute_tensor(value.to(target.device), target.device_mesh, target.placements)
        target.copy_(value)


def trained(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that train, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
