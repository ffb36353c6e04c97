"""GGUF files as safetensors directories: dequantised once into the user's cache."""

from __future__ import annotations

import io
import json
import logging
import struct
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from tunesmith.cache import CACHE_ELSEWHERE, cache_dir, cache_lock
from tunesmith.compat import quiet_transformers
from tunesmith.disk import replace_directory, write_text
from tunesmith.errors import ModelError
from tunesmith.redact import first_line, redact

FLOAT32_GGUF_BYTES = 2**30
"""GGUF files up to this size become float32, larger ones bfloat16: finer than what they were quantised to."""

SET_GGUF_END = (
    "Name the token that ends a text in a copy of the file: gguf-new-metadata --special-token eos '</s>' {} out.gguf "
    "(it comes with tunesmith; '</s>' stands for that token); or use the safetensors model it was made from."
)
"""What to do about a GGUF file without an end token."""

_COMPLETE = "COMPLETE.json"
_logger = logging.getLogger(__name__)


def dequantise(file: Path, key: str, *, weights: bool = True) -> Path:
    """The GGUF file as a safetensors directory in the cache, written once; without `weights`, its tokenizer.

    Two processes at once are safe: the second waits for the first. A folder that a kill or a full disk broke is noticed
    by its list of files and sizes, and written again.
    """
    target = cache_dir() / "models" / key
    if _is_complete(target):
        return target
    if not weights:
        target = target.with_name(f"{key}-tokenizer")
    with cache_lock(target.with_name(f".{target.name}.lock")):
        if not _is_complete(target):
            if weights:
                _logger.warning("dequantising %s into %s (once)", file.name, target)
            with replace_directory(target, CACHE_ELSEWHERE) as staging:
                write = _write_dequantised if weights else _write_tokenizer
                write(file, staging)
                sizes = {path.name: path.stat().st_size for path in staging.iterdir()}
                write_text(staging / _COMPLETE, json.dumps({"source": file.name, "bytes": sizes}))
    return target


def _write_dequantised(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    dtype = torch.float32 if file.stat().st_size <= FLOAT32_GGUF_BYTES else torch.bfloat16
    _write_tokenizer(file, folder)
    with _reading_gguf(file, folder) as options:
        model = AutoModelForCausalLM.from_pretrained(
            file.parent, dtype=dtype, quantization_config=GgufConfig(dequantize=True), **options
        )
        forget_quantisation(model)
        model.save_pretrained(folder)


def _write_tokenizer(file: Path, folder: Path) -> None:
    from transformers import AutoTokenizer

    with _reading_gguf(file, folder) as options:
        AutoTokenizer.from_pretrained(file.parent, **options).save_pretrained(folder)


@contextmanager
def _reading_gguf(file: Path, folder: Path) -> Iterator[dict[str, str | bool]]:
    """What transformers must be told to read a GGUF file; its errors become ModelError."""
    try:
        with quiet_transformers(), redirect_stderr(io.StringIO()):  # its GGUF reader draws a bar of its own
            yield {"gguf_file": file.name, "trust_remote_code": False, "local_files_only": True}
    except OSError as error:
        raise ModelError(f"model {file}: cannot be dequantised into {folder.parent}: {redact(str(error))}") from error
    except (ValueError, RuntimeError, KeyError, IndexError, ImportError, struct.error, NotImplementedError) as error:
        raise ModelError(
            f"model {file}: this GGUF file cannot be read ({first_line(error)}). "
            "It may be damaged or of an architecture without support; use the safetensors model it was made from."
        ) from error


def _is_complete(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / _COMPLETE).read_text(encoding="utf-8"))["bytes"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def gguf_licence(path: Path) -> str | None:
    """The licence that a GGUF file names; None where it names none or cannot be read."""
    from gguf import GGUFReader

    try:
        field = GGUFReader(path).fields.get("general.license")
        return str(field.contents()) if field is not None else None
    except (ValueError, OSError, IndexError, KeyError):
        return None


def forget_quantisation(model: Any) -> None:
    """Remove a quantiser's marks from a model whose weights are plain floats, so that it trains and saves as such."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    for name in ("is_quantized", "hf_quantizer", "quantization_method"):
        if name in vars(model):
            delattr(model, name)
