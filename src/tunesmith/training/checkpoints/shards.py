"""What a sharded run keeps: each process writes its share of every tensor, and nothing is gathered.

Written by torch's distributed checkpoint (DCP) as safetensors; DCP's own format is a pickle. Any number of processes
reads them, each what it needs of them, sharded or not.

    model/shard-00002-model-00001-of-00003.safetensors    of the second process, its first file
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

FILE_BYTES = 1 << 29
"""Of one file of a process. DCP holds a file twice while it is written, whatever the size of the model."""


class Part(str):
    """In the place of a tensor that is kept in shares: its name there."""


def shards_beside(path: Path) -> Path:
    """Where shares are kept in the place of a file, or beside it: `model/` for `model.safetensors`."""
    return path.with_suffix("")


def parted(tree: Any, name: str = "") -> tuple[Any, dict[str, Tensor]]:
    """A tree of dicts, lists and tensors without its sharded tensors, and those by name."""
    if isinstance(tree, DTensor):
        return Part(name), {name: tree}
    if not isinstance(tree, dict | list | tuple):
        return tree, {}
    tensors: dict[str, Tensor] = {}

    def rest(items: Iterable[tuple[Any, Any]]) -> list[Any]:
        kept = []
        for key, item in items:
            part, found = parted(item, f"{name}/{key}" if name else str(key))
            kept.append(part)
            tensors.update(found)
        return kept

    if isinstance(tree, dict):
        return dict(zip(tree, rest(tree.items()), strict=True)), tensors
    return type(tree)(rest(enumerate(tree))), tensors


def joined(tree: Any, folder: Path) -> Any:
    """A tree that `parted` left, with whole tensors on the CPU, read from what `write_shards` wrote."""
    kinds = shard_kinds(folder)
    whole = {name: torch.empty(size, dtype=dtype) for name, (size, dtype) in kinds.items()}
    read_shards(whole, folder)

    def join(part: Any) -> Any:
        if isinstance(part, Part):
            return whole[part]
        if isinstance(part, dict):
            return {key: join(item) for key, item in part.items()}
        return type(part)(join(item) for item in part) if isinstance(part, list | tuple) else part

    return join(tree)


def write_shards(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write this process's shares, flushed to disk. All processes together; returns when all have written.

    Raises in all of them the error of the first that failed.
    """
    writer = HuggingFaceStorageWriter(str(folder), fqn_to_index_mapping=_files(tensors), save_distributed=True)
    try:
        save(dict(tensors), storage_writer=writer)
    except CheckpointException as error:  # no Exception, and the errors of all processes are in it
        cause, _ = next(iter(error.failures.values()))
        raise cause from None


def read_shards(targets: Mapping[str, Tensor], folder: Path) -> None:
    """Fill tensors, whole or sharded, by name; each process reads what it holds and waits for no other.

    So this is DCP's `load` without its exchanges: nothing that one process reads depends on another.
    """
    reader, planner = HuggingFaceStorageReader(str(folder)), DefaultLoadPlanner()
    metadata = reader.read_metadata()
    planner.set_up_planner(dict(targets), metadata, is_coordinator=True)
    reader.set_up_storage_reader(metadata, is_coordinator=True)
    plan = reader.prepare_local_plan(planner.create_local_plan())
    (plan,) = reader.prepare_global_plan(planner.create_global_plan([plan]))
    with torch.no_grad():
        reader.read_data(planner.finish_plan(plan), planner).wait()


def shard_kinds(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Size and type of each whole tensor."""
    metadata = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    tensors = ((name, one) for name, one in metadata.items() if isinstance(one, TensorStorageMetadata))
    return {name: (one.size, one.properties.dtype) for name, one in tensors}


def _files(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """The number of the file for each tensor; the same in all processes."""
    numbers, number, filled = {}, 1, 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        if isinstance(tensor, DTensor):
            size //= tensor.device_mesh.size()
        if filled and filled + size > FILE_BYTES:
            number, filled = number + 1, 0
        numbers[name], filled = number, filled + size
    return numbers
