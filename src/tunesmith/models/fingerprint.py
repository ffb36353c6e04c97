"""Which base an adapter belongs to: a fingerprint of the weights, whatever file they lie in."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

BASE_KEY = "base_fingerprint"
"""In the header of adapter_model.safetensors, where peft and other readers pass over it."""
NUM_TENSORS = 24
SAMPLE_VALUES = 256


def weights_fingerprint(folder: str | Path) -> str:
    """16 hex digits over names, shapes and first values of up to 24 tensors, spread over a model's safetensors files.

    Cheap, whatever the size. A copy, a new config.json or another sharding leave it as it is; training changes it.
    """
    from safetensors import safe_open

    digest = hashlib.sha256()
    places = dict[str, Path]()
    for path in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            places |= dict.fromkeys(file.keys(), path)
    names = sorted(places)
    for name in names[:: max(1, len(names) // NUM_TENSORS)]:
        with safe_open(places[name], framework="pt") as file:
            part = file.get_slice(name)
            shape = part.get_shape()
            values = part[:1].flatten()[:SAMPLE_VALUES] if shape else file.get_tensor(name)
            digest.update(f"{name} {shape} ".encode() + values.float().numpy().tobytes())
    return digest.hexdigest()[:16]


def order_header(path: Path) -> None:
    """Sort what the header of a safetensors file says of the file: its writer does so in an order drawn at random, and
    the same weights are to be the same bytes."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
        ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(ordered) <= size, "the same entries in another order"
        file.seek(8)
        file.write(ordered.ljust(size))


def trained_on(adapter: str | Path) -> str | None:
    """The fingerprint of the base that an adapter was trained on; None where its file does not say."""
    from safetensors import safe_open

    with safe_open(Path(adapter) / "adapter_model.safetensors", framework="pt") as file:
        return (file.metadata() or {}).get(BASE_KEY)
