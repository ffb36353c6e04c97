"""The types in which GGUF holds weights, and a quantizer for those that only llama.cpp writes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.errors import ModelError
from tunesmith.run.artefacts import Quant

BLOCK = 32
"""Values that share a scale; a matrix whose rows are no multiple of it stays in f16."""
LARGEST_F16 = 65504.0
FILE_TYPES: dict[Quant, int] = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7, "q5_1": 9, "q4_k_m": 15, "bf16": 32}
"""What general.file_type calls them."""
QUANTIZER = "llama-quantize"


def type_of(quant: Quant, shape: tuple[int, ...]) -> Any:
    """The type of one tensor: vectors stay in float32, in every file."""
    from gguf import GGMLQuantizationType as Types

    if len(shape) < 2 or quant == "f32":
        return Types.F32
    if quant in ("f16", "bf16"):
        return Types.F16 if quant == "f16" else Types.BF16
    return Types.F16 if shape[-1] % BLOCK else getattr(Types, quant.upper())


def pack(values: NDArray[np.float32], kind: Any, name: str) -> NDArray[Any]:
    """The values as the file holds them. Raises ModelError where float16 would overflow."""
    from gguf import GGMLQuantizationType as Types
    from gguf import quants

    if kind == Types.F32:
        return values
    if kind == Types.F16:
        largest = float(np.abs(values).max(initial=0.0))
        if not largest <= LARGEST_F16:
            raise ModelError(
                f"export: {name} holds {largest:g}, and f16 ends at {LARGEST_F16:g}. Use --quant bf16 or f32."
            )
        return values.astype(np.float16)
    packed: NDArray[Any] = quants.quantize(values, kind)
    return packed


def rounded(values: NDArray[np.float32], kind: Any, name: str) -> NDArray[np.float32]:
    """What is left of the values in that type."""
    from gguf import GGMLQuantizationType as Types
    from gguf import quants

    packed = pack(values, kind, name)
    if kind in (Types.F32, Types.F16):
        return packed.astype(np.float32)
    whole: NDArray[np.float32] = quants.dequantize(packed, kind)
    return whole


def find_quantizer() -> str:
    """llama.cpp's own quantizer, on the path or beside the running Python. Raises ModelError: how to get it."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which(QUANTIZER) or shutil.which(QUANTIZER, path=beside)
    if found is None:
        raise ModelError(
            f"export: q4_k_m is written by llama.cpp's {QUANTIZER}, which is neither on the path nor in {beside}. "
            "It comes with llama.cpp: brew install llama.cpp, a release of github.com/ggml-org/llama.cpp, or cmake and "
            "a C++ compiler (docs/export.md has the commands). Without it: --quant q4_0, q5_1 or q8_0."
        )
    return found


def quantize_file(source: Path, target: Path, quant: Quant) -> None:
    """A GGUF file in another type, by llama.cpp's quantizer. Raises ModelError when it fails."""
    done = subprocess.run(
        [find_quantizer(), str(source), str(target), quant.upper()],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode or not target.is_file():
        words = [line for line in (done.stderr.strip() or done.stdout.strip()).splitlines() if line.strip()]
        told = words[-1].strip()[:300] if words else f"it ended with status {done.returncode} and no message"
        raise ModelError(f"export: {QUANTIZER} failed ({told}). Use --quant q4_0, or another llama.cpp.")
