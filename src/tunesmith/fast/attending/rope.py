"""Rotary embedding that depends on how long the text is: every document of a flat batch gets its own.

Rope types `dynamic` (base frequency) and `longrope` (short or long factors) choose their frequencies by the longest
text of the batch, so that a document's loss would depend on its neighbours (transformers' dynamic_rope_update; there
it also depends on what was seen before). Here each document has what it has alone: as many tokens as it has, its last
one counted, which is fed in a plain forward pass though nothing is predicted from it.

Other rope types (default, linear, yarn, llama3, proportional) have fixed frequencies and are left alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from tunesmith.fast.batches.layout import FlatBatch

BY_LENGTH = ("dynamic", "longrope")


@dataclass
class DocumentRope:
    """The flat batch that goes through a model now; its rotary modules look here."""

    flat: FlatBatch | None = None
    _frequencies: dict[tuple[str | None, int], tuple[Tensor, float]] = field(default_factory=dict, repr=False)

    @contextlib.contextmanager
    def of(self, flat: FlatBatch) -> Iterator[None]:
        """Inside, `flat` is what is fed."""
        self.flat = flat
        try:
            yield
        finally:
            self.flat = None
            self._frequencies.clear()

    @torch.no_grad()
    def forward(
        self, module: Any, original: Any, x_1TE: Tensor, position_ids: Tensor, layer_type: str | None = None
    ) -> tuple[Tensor, Tensor]:
        """cos and sin [1, T, D] of the flat batch; of every other call what `original` makes."""
        kind = module.rope_type if layer_type is None else module.rope_type[layer_type]
        if self.flat is None or kind not in BY_LENGTH:
            more = {} if layer_type is None else {"layer_type": layer_type}
            tables: tuple[Tensor, Tensor] = original(x_1TE, position_ids, **more)
            return tables
        angles, scaling = [], 1.0
        for length, position_L in zip(self.flat.lengths, position_ids[0].split(self.flat.lengths), strict=True):
            known = _same_frequencies(module.config, kind, layer_type, length + 1)
            if (layer_type, known) not in self._frequencies:
                more = {} if layer_type is None else {"layer_type": layer_type}
                made = ROPE_INIT_FUNCTIONS[kind](module.config, x_1TE.device, seq_len=known, **more)
                self._frequencies[layer_type, known] = made
            frequency_D, scaling = self._frequencies[layer_type, known]
            angles.append(position_L[:, None].float() * frequency_D.float())
        angle_TD = torch.cat(angles)
        table_1TD = torch.cat((angle_TD, angle_TD), -1)[None]
        return (table_1TD.cos() * scaling).to(x_1TE.dtype), (table_1TD.sin() * scaling).to(x_1TE.dtype)


def rotary_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Name and module of every rotary embedding of the model that depends on the length."""
    found = []
    for name, module in model.named_modules():
        kinds = getattr(module, "rope_type", None)
        if any(kind in BY_LENGTH for kind in (kinds.values() if isinstance(kinds, dict) else [kinds])):
            found.append((name, module))
    return found


def _same_frequencies(config: Any, kind: str, layer_type: str | None, length: int) -> int:
    """A length with the frequencies of `length`, one for all that share them."""
    if kind == "dynamic":
        return max(length, int(config.max_position_embeddings))
    parameters = config.rope_parameters if layer_type is None else config.rope_parameters[layer_type]
    within = int(parameters["original_max_position_embeddings"])
    return within if length <= within else within + 1
