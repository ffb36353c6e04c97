"""A model of transformers as one GGUF file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.export.gguf.families import Family, is_turned, laid_out, tensors
from tunesmith.export.gguf.quant import FILE_TYPES, pack, rounded, type_of
from tunesmith.export.gguf.vocab import Vocabulary
from tunesmith.models.tokenizer import TextTokenizer
from tunesmith.run.artefacts import Quant

PLAIN = ("position_embd.weight", "rope_freqs.weight")
"""Tables that stay in float32: they are small, and are looked up."""


@dataclass(frozen=True)
class Says:
    """What the file says of itself."""

    name: str
    licence: str | None
    starts: bool
    """Whether a text is read behind the start token."""


def write_gguf(
    path: Path, model: Any, family: Family, vocabulary: Vocabulary, tokenizer: TextTokenizer, quant: Quant, says: Says
) -> None:
    """Write the file, one tensor in memory at a time.

    Raises ModelError for a tensor that has no place in it, or no room in the type.
    """
    import numpy as np
    from gguf import GGML_QUANT_SIZES, GGUFWriter

    writer = GGUFWriter(path, family.arch)
    writer.add_name(says.name)
    if says.licence:
        writer.add_license(says.licence)
    writer.add_file_type(FILE_TYPES[quant])
    if quant not in ("f32", "f16", "bf16"):
        writer.add_quantization_version(2)
    family.describe(writer, model.config)
    _write_vocabulary(writer, vocabulary, tokenizer, starts=says.starts)
    for name, tensor in tensors(model, family):
        kind = _type_of(name, tensor, quant)
        values, size = GGML_QUANT_SIZES[kind]
        num_bytes = tensor.numel() // values * size
        writer.add_tensor_info(name, tuple(tensor.shape), np.dtype(np.float32), num_bytes, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, tensor in tensors(model, family):
        writer.write_tensor_data(pack(tensor.contiguous().numpy(), _type_of(name, tensor, quant), name))
    writer.close()


def _type_of(name: str, tensor: Any, quant: Quant) -> Any:
    return type_of("f32" if name in PLAIN else quant, tuple(tensor.shape))


def round_weights(model: Any, quant: Quant) -> None:
    """Give every matrix of the model the values that the file holds, in place.

    The file holds rows in another order, which changes nothing here: values are rounded along a row.
    """
    import torch

    with torch.no_grad():
        for name, weight in model.named_parameters():
            values = laid_out(model, name, weight)
            kind = type_of("f32" if name.endswith("wpe.weight") else quant, tuple(values.shape))
            new = torch.from_numpy(rounded(values.contiguous().numpy(), kind, name))
            weight.copy_(new.t() if is_turned(model, name) else new)


def _write_vocabulary(writer: Any, vocabulary: Vocabulary, tokenizer: TextTokenizer, *, starts: bool) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types(list(vocabulary.kinds))
    if vocabulary.scores:
        writer.add_token_scores(list(vocabulary.scores))
        writer.add_add_space_prefix(vocabulary.starts_with_space)
    else:
        writer.add_token_merges(list(vocabulary.merges))
    writer.add_bos_token_id(tokenizer.start_id)
    writer.add_eos_token_id(tokenizer.end_id)
    writer.add_pad_token_id(tokenizer.pad_id)
    if tokenizer.turn_end_id is not None and tokenizer.turn_end_id != tokenizer.end_id:
        writer.add_eot_token_id(tokenizer.turn_end_id)
    writer.add_add_bos_token(starts)
    writer.add_add_eos_token(False)
    if isinstance(template := getattr(tokenizer.backend, "chat_template", None), str):
        writer.add_chat_template(template)
