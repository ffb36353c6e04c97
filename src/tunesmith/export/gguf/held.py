"""What llama.cpp's quantizer made of the weights: read from its file, and put into the model.

Only llama.cpp packs its K-quants, but the gguf package unpacks them. So a file of another program's making is proved
like one of ours: against the tuned model with the values that the file holds.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import ModelError
from tunesmith.export.gguf.families import Family, is_turned, placed
from tunesmith.export.gguf.write import PLAIN

SUPER_BLOCK = 256
"""Values in a block of a K-quant: a matrix whose rows are no multiple of it is written in another type."""
LARGEST_CHANGE = 0.3
"""Norm of what rounding changed / norm of the matrix. Four bits change about 0.1; rows in another order 1.4."""


@dataclass(frozen=True)
class Held:
    """In which types a file holds the matrices of a model."""

    num_by_type: dict[str, int]
    """Matrices, the most frequent type first."""
    num_uneven: int
    """Matrices whose rows are no multiple of a K-quant's block."""
    bits_per_weight: float

    @property
    def num_matrices(self) -> int:
        return sum(self.num_by_type.values())


def take_weights(model: Any, family: Family, file: Path) -> Held:
    """Give every matrix of the model the values that the file holds, in place.

    Raises ModelError for a matrix that is missing there, or so far from the model's that it is another one.
    """
    import torch
    from gguf import GGUFReader
    from gguf.quants import dequantize

    matrices = {name: weight for name, weight in model.named_parameters() if weight.dim() == 2}
    numbers, names = dict[str, Any](), dict[int, str]()
    for name, weight in matrices.items():
        first, num_rows = sum(map(len, numbers.values())), weight.shape[1 if is_turned(model, name) else 0]
        numbers[name], names[first] = torch.arange(first, first + num_rows), name
    tensors = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
    types, num_uneven, num_bytes, num_weights = Counter[str](), 0, 0, 0
    for place, order in placed(model, family, numbers):
        if place in PLAIN:
            continue
        if place not in tensors:
            raise ModelError(f"export: {file.name} lacks {place}. Use another llama.cpp, or --quant q4_0.")
        tensor = tensors[place]
        types[tensor.tensor_type.name.lower()] += 1
        num_bytes, num_weights = num_bytes + int(tensor.n_bytes), num_weights + int(tensor.n_elements)
        num_uneven += bool(int(tensor.shape[0]) % SUPER_BLOCK)
        values = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type)[order.argsort().numpy()])
        row, in_order = 0, order.sort().values
        while row < len(in_order):
            name = names[int(in_order[row])]
            part = values[row : row + len(numbers[name])]
            _take(matrices[name], part.t() if is_turned(model, name) else part, f"{file.name}: {place}")
            row += len(part)
    return Held(dict(types.most_common()), num_uneven, 8 * num_bytes / num_weights)


def _take(weight: Any, values: Any, where: str) -> None:
    import torch

    with torch.no_grad():
        change = float((values - weight).norm() / weight.norm().clamp_min(torch.finfo(torch.float32).tiny))
        if not change <= LARGEST_CHANGE:
            raise ModelError(
                f"export: {where} is {change:.0%} away from the weights that were given to the quantizer, expected at "
                f"most {LARGEST_CHANGE:.0%}. Use another llama.cpp, or --quant q4_0."
            )
        weight.copy_(values)
