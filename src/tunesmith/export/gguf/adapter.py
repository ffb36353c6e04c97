"""An adapter as a GGUF file of its own, for a file of its base."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.errors import ModelError
from tunesmith.export.gguf.families import Family
from tunesmith.export.gguf.quant import FILE_TYPES, pack, type_of
from tunesmith.export.job import Adapter
from tunesmith.run.artefacts import Quant


def write_adapter(path: Path, base: Any, family: Family, adapters: Mapping[str, Adapter], quant: Quant) -> None:
    """Write the pairs of matrices under the names of the base's tensors. Raises ModelError where one has no place."""
    from gguf import MODEL_ARCH, GGUFWriter, get_tensor_name_map

    names = get_tensor_name_map(getattr(MODEL_ARCH, family.arch.upper()), base.config.num_hidden_layers)
    rank = len(next(iter(adapters.values())).down)
    writer = GGUFWriter(path, family.arch)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(rank))  # the scale is in the matrices
    writer.add_file_type(FILE_TYPES[quant])
    for module, pair in adapters.items():
        name = names.get_name(f"{module}.weight", try_suffixes=(".weight",))
        if name is None or family.joins_qkv:
            raise ModelError(f"export --adapter: {module} has no place of its own in a GGUF file of {family.arch}.")
        up = family.rows(f"{module}.weight", pair.up, base.config)
        for tensor, end in ((pair.down, "lora_a"), (up, "lora_b")):
            kind = type_of(quant, tuple(tensor.shape))
            writer.add_tensor(f"{name}.{end}", pack(tensor.contiguous().numpy(), kind, name), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
