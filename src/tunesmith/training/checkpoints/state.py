"""What a checkpoint holds, written and read back bit for bit without pickles.

Any tree of dicts, lists, tuples, numbers, strings, tensors and arrays becomes one safetensors file: the tensors as they
are, the rest as JSON in the header. Optimizer, scheduler and random states are such trees; nothing that is read can run
code. Of a sharded run the tensors lie in a folder beside that file, or in its place (shards.py).
"""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from tunesmith import __version__
from tunesmith.errors import RunError
from tunesmith.training.checkpoints.shards import Part, joined, read_shards, shard_kinds, shards_beside
from tunesmith.training.processes.sharding import fill, trained

_TREE = "tree"
_TYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.uint8: "U8", torch.int64: "I64"}
"""What safetensors calls them."""


def save_tree(tree: Any, path: Path) -> None:
    """Write a tree as one safetensors file. Raises TypeError on a value that is not plain data."""
    tensors: dict[str, torch.Tensor] = {}
    encoded = _encode(tree, tensors, "")
    save_file(tensors, path, metadata={_TREE: json.dumps(encoded)})


def load_tree(path: Path) -> Any:
    """The tree that `save_tree` wrote, every tensor whole, on the CPU and in memory of its own.

    Raises RunError when the file is not such a file.
    """
    with _reading(path) as (file, encoded):
        # A clone, not the mapped file: the checkpoint may be removed while its tensors are in use, and kernels round
        # alike only on memory that is aligned alike.
        tree = _decode(encoded, {name: file.get_tensor(name).clone() for name in file.keys()})  # noqa: SIM118
        folder = shards_beside(path)
        return joined(tree, folder) if folder.is_dir() else tree


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[tuple[Any, Any]]:
    """The open file that `save_tree` wrote, and its tree in JSON."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file, json.loads((file.metadata() or {})[_TREE])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path}: cannot be read back ({error}). Resume from an older checkpoint.") from None


def load_optimizer(optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Restore a `state_dict` that `save_tree` wrote. Raises RunError when it belongs to other parameters.

    Tensors that the optimizer holds already are filled one after another, so a run that goes on needs no more memory
    than one that was never stopped.
    """
    with _reading(path) as (file, encoded):
        state = _decode(encoded, _Names())
        expected = [len(group["params"]) for group in optimizer.param_groups]
        try:
            found = [len(group["params"]) for group in state["param_groups"]]
        except (KeyError, TypeError):
            raise RunError(f"{path}: holds no optimizer state. Resume from an older checkpoint.") from None
        if found != expected:
            raise RunError(f"{path}: expected parameter groups of {expected}, found {found}. It is of another model.")
        if _fill(optimizer, state, file, shards_beside(path)):
            return
    optimizer.load_state_dict(load_tree(path))


def _fill(optimizer: torch.optim.Optimizer, state: Any, file: Any, shards: Path) -> bool:
    """Copy stored tensors into those of the optimizer; False, with nothing changed, when they are not of one kind."""
    kinds = shard_kinds(shards) if shards.is_dir() else {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    pairs: list[tuple[torch.Tensor, _Name | Part]] = []
    for parameter, number in zip(parameters, numbers, strict=True):
        held, stored = optimizer.state.get(parameter, {}), state["state"].get(number, {})
        if held.keys() != stored.keys():
            return False
        for name, tensor in held.items():
            place = stored[name]
            if not (isinstance(tensor, torch.Tensor) and isinstance(place, _Name | Part)):
                return False
            if not _is_of_kind(tensor, place, file, kinds):
                return False
            pairs.append((tensor, place))
    for tensor, place in pairs:
        if isinstance(place, _Name):
            fill(tensor, file.get_tensor(place))
    if parts := {str(place): tensor for tensor, place in pairs if isinstance(place, Part)}:
        read_shards(parts, shards)
    for group, stored in zip(optimizer.param_groups, state["param_groups"], strict=True):
        group.update({name: value for name, value in stored.items() if name != "params"})
    return True


def _is_of_kind(
    tensor: torch.Tensor, place: _Name | Part, file: Any, kinds: Mapping[str, tuple[torch.Size, torch.dtype]]
) -> bool:
    """Whether the tensor that is stored there has this one's shape and type."""
    if isinstance(place, Part):
        return kinds.get(place) == (tensor.shape, tensor.dtype)
    found = file.get_slice(place)
    return bool((found.get_shape(), found.get_dtype()) == (list(tensor.shape), _TYPES.get(tensor.dtype)))


class _Name(str):
    """Where a tensor stands in a file."""


class _Names(dict[str, _Name]):
    """In the place of the tensors of a file: their names."""

    def __missing__(self, name: str) -> _Name:
        return _Name(name)


def save_parameters(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write whole tensors, each once, under their own names."""
    save_file({name: _plain(tensor) for name, tensor in tensors.items()}, path, metadata={"format": "pt"})


def load_trainable(model: torch.nn.Module, path: Path) -> None:
    """Copy what `save_parameters` wrote, or the shards in its place, into the parameters of `model`.

    Raises RunError when names, shapes or types differ.
    """
    parameters, shards = trained(model), shards_beside(path)
    try:
        if shards.is_dir():
            kinds = shard_kinds(shards)
            _check_names(parameters, kinds, shards)
            for name, parameter in parameters.items():
                _check_kind(parameter, *kinds[name], f"{shards}: {name}")
            read_shards(parameters, shards)
            return
        with safe_open(path, framework="pt", device="cpu") as file:
            _check_names(parameters, file.keys(), path)
            for name, parameter in parameters.items():
                value = file.get_tensor(name)
                _check_kind(parameter, value.shape, value.dtype, f"{path}: {name}")
                fill(parameter, value)
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path}: cannot be read back ({error}). Resume from an older checkpoint.") from None


def rng_state() -> dict[str, Any]:
    """The state of every random generator: python, numpy, torch, and each CUDA device that is in use."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    return {
        "python": random.getstate(),
        "numpy": (name, np.asarray(keys, dtype=np.uint32), int(position), int(has_gauss), float(gauss)),
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore what `rng_state` returned. States of CUDA devices that this machine lacks are left out."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    for device, value in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
        torch.cuda.set_rng_state(value, device)


def load_rng_state(path: Path) -> None:
    """Restore what `save_tree(rng_state(), path)` wrote. Raises RunError when these libraries cannot."""
    state = load_tree(path)
    try:
        set_rng_state(state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise RunError(
            f"{path}: the random numbers of this run cannot be taken up here ({error}). They were saved by other "
            "versions of python, numpy or torch: go on with those, or start over with --fresh."
        ) from None


def environment() -> dict[str, str]:
    """What decides the last bits of a result, beside recipe, data and model."""
    cuda = torch.cuda.is_available()
    return {
        "tunesmith": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "processor": torch.cuda.get_device_name() if cuda else torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
    }


def environment_changes(before: dict[str, str]) -> list[str]:
    """`torch 2.12.0, here 2.13.0` for each part of `environment` that is no longer as it was."""
    now = environment()
    return [f"{name} {before[name]}, here {now[name]}" for name in now if before.get(name, now[name]) != now[name]]


def _check_names(parameters: Mapping[str, torch.Tensor], found: Iterable[str], where: Path) -> None:
    names = set(found)
    if names != parameters.keys():
        missing, extra = sorted(parameters.keys() - names)[:3], sorted(names - parameters.keys())[:3]
        raise RunError(f"{where}: is of another model: it lacks {missing} and has {extra} besides.")


def _check_kind(parameter: torch.Tensor, shape: torch.Size, dtype: torch.dtype, where: str) -> None:
    if (parameter.shape, parameter.dtype) != (shape, dtype):
        raise RunError(f"{where}: expected {tuple(parameter.shape)} {parameter.dtype}, found {tuple(shape)} {dtype}.")


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """A contiguous tensor on the CPU that shares no storage with a larger one."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size():
        tensor = tensor.clone()
    return tensor


def _encode(value: Any, tensors: dict[str, torch.Tensor], name: str) -> Any:
    """JSON for `value`. Plain values stand for themselves; everything else is `{kind: content}`."""
    if isinstance(value, torch.Tensor | np.ndarray):
        kind = "tensor" if isinstance(value, torch.Tensor) else "array"
        tensors[name] = _plain(value if isinstance(value, torch.Tensor) else torch.from_numpy(np.array(value)))
        return {kind: name}
    if isinstance(value, Part):
        return {"part": str(value)}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        pairs = [[_key(key), _encode(item, tensors, f"{name}/{key}")] for key, item in value.items()]
        return {"dict": pairs}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_encode(item, tensors, f"{name}/{i}") for i, item in enumerate(value)]}
    raise TypeError(f"{name}: a {type(value).__name__} is not plain data and is not saved")


def _key(key: Any) -> int | str:
    if isinstance(key, str | int) and not isinstance(key, bool):
        return key
    raise TypeError(f"a key of type {type(key).__name__} is not saved")


def _decode(encoded: Any, tensors: Mapping[str, Any]) -> Any:
    if not isinstance(encoded, dict):
        return encoded
    ((kind, content),) = encoded.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "part":
        return Part(content)
    if kind == "array":
        return tensors[content].numpy()
    if kind == "dict":
        return {key: _decode(item, tensors) for key, item in content}
    items = [_decode(item, tensors) for item in content]
    return items if kind == "list" else tuple(items)
