"""How long a text a model can read, and the longest document that is prepared for it.

Data are prepared before anything is planned: both ask here, so that they see one value.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from tunesmith.models.find import ModelSource

USUAL_LENGTH = 1024
"""Tokens of the longest document where nothing else is said: beyond it attention costs more than the rest."""


def max_positions(config: PretrainedConfig) -> int | None:
    """Longest sequence that a model was made for; None when its config does not say.

    With rope type `dynamic` the positions of the config are the original ones, which its factor stretches.
    """
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    if not positions:
        return None
    rope = getattr(text, "rope_parameters", None)
    stretched = isinstance(rope, dict) and rope.get("rope_type") == "dynamic"
    return int(positions * (rope or {}).get("factor", 1.0)) if stretched else int(positions)


def positions_of(source: ModelSource) -> int | None:
    """`max_positions` of a model that was found; None where its config cannot be read, which loading it will tell."""
    from transformers import AutoConfig

    try:
        values = json.loads((Path(source.path) / "config.json").read_text(encoding="utf-8"))
        return max_positions(AutoConfig.for_model(values.pop("model_type"), **values))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def document_length(asked: int | Literal["auto"], positions: int | None) -> int:
    """train.max_length: what was asked, or the usual length where the model can read that much."""
    if asked != "auto":
        return asked
    return USUAL_LENGTH if positions is None else min(USUAL_LENGTH, positions)
