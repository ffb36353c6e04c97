"""GPUs by name: memory, peak rates and bandwidth, from assets/gpus.json, which cites the makers' data sheets."""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources

from tunesmith.errors import PlanError

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """One model of GPU. Rates in FLOP/s without sparsity, bandwidth in bytes/s."""

    key: str
    name: str
    """As nvidia-smi prints it."""
    sold_gigabytes: int
    """What the card is sold with; two that are sold alike differ by some reserved pages."""
    memory_bytes: int
    """What CUDA reports as the total."""
    fp32: float
    """Rate of float32 arithmetic; torch does not use TF32 unless told to."""
    matrix: float
    """Rate of bf16 matrix products with float32 accumulation; fp16 on cards without bf16."""
    bandwidth: float
    bf16: bool
    capability: tuple[int, int]
    """Compute capability, as CUDA reports it."""
    source: str
    aliases: tuple[str, ...]
    device: str
    """Pattern of the name that CUDA gives the device."""

    def to_json(self) -> dict[str, object]:
        return asdict(self)


@cache
def gpus() -> tuple[Gpu, ...]:
    """Every row of the table, in its order."""
    text = resources.files("tunesmith").joinpath("assets/gpus.json").read_text(encoding="utf-8")
    return tuple(
        Gpu(
            key=row["key"],
            name=row["name"],
            sold_gigabytes=row["sold_gigabytes"],
            memory_bytes=int(row["memory_gib"] * GIB),
            fp32=row["fp32_teraflops"] * 1e12,
            matrix=row["matrix_teraflops"] * 1e12,
            bandwidth=row["bandwidth_gigabytes"] * 1e9,
            bf16=row["bf16"],
            capability=tuple(row["capability"]),
            source=row["source"],
            aliases=tuple(row["aliases"]),
            device=row["device"],
        )
        for row in json.loads(text)["gpus"]
    )


def find_gpu(name: str) -> Gpu:
    """The GPU that `name` (`a100-80gb`, `RTX 4090`, what nvidia-smi prints) means.

    Raises PlanError that lists near matches.
    """
    wanted = _plain(name)
    by_name = {_plain(known): gpu for gpu in gpus() for known in (gpu.key, gpu.name, *gpu.aliases)}
    if wanted in by_name:
        return by_name[wanted]
    printed = gpu_of_device(name)
    if printed is not None:
        return printed
    holding = {gpu.key: gpu for known, gpu in by_name.items() if wanted and wanted in known}
    if len(holding) == 1:
        return next(iter(holding.values()))
    near = difflib.get_close_matches(wanted, by_name, n=4, cutoff=0.5)
    found = list(dict.fromkeys([*holding, *(by_name[known].key for known in near)]))[:4]
    hint = f"Did you mean {' or '.join(found)}?" if found else f"Known: {', '.join(gpu.key for gpu in gpus())}."
    raise PlanError(f"--gpu {name}: not a GPU in the table. {hint}")


def gpu_of_device(device_name: str) -> Gpu | None:
    """The row that matches what CUDA calls a device (`NVIDIA A100-SXM4-80GB`), or None."""
    return next((gpu for gpu in gpus() if re.search(gpu.device, device_name)), None)


def _plain(name: str) -> str:
    """Letters and digits only, without the makers' names."""
    text = re.sub(r"nvidia|geforce|tesla|amd|instinct|quadro", "", name.lower())
    return re.sub(r"[^a-z0-9]", "", text)
