"""Rows for added tokens: a tokenizer that has more tokens than its model has embedding rows (`model.grow: true`).

The model's files stay as they are; the rows are added when it is loaded, of the same values each time. Whoever reads
an adapter of such a model gets them from the number of its rows: their values lie in the adapter itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tunesmith.compat import quiet_transformers
from tunesmith.models.find import ModelSource, find_model
from tunesmith.models.tokenizer import TextTokenizer, load_tokenizer, rows_of_files
from tunesmith.recipe import ModelSection

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SEED = 0
"""Of the rows' first values."""


def find_asked(asked: ModelSection, *, weights: bool = True) -> ModelSource:
    """The model that a recipe names, with a row for each token where it says `grow`. Raises as `find_model` does."""
    source = find_model(asked.name, asked.revision, weights=weights)
    if not asked.grow:
        return source
    grown = replace(source, rows=2**31)  # whatever the tokenizer holds
    needed, held = num_tokens(load_tokenizer(grown)), rows_of_files(source)
    return source if held is None or needed <= held else replace(source, rows=needed)


def num_tokens(tokenizer: TextTokenizer) -> int:
    """Rows that a tokenizer needs: its largest id, and one."""
    return 1 + int(max(tokenizer.backend.get_vocab().values()))


def add_rows(model: PreTrainedModel, num_rows: int) -> None:
    """Give a model so many embedding rows, and its head as many, unless it has them; `model.added_rows` says which.

    Their first values are drawn around the mean of the others (Hewitt, 2021, Initializing New Word Embeddings), so that
    what the model says of other tokens hardly changes.
    """
    import torch

    before = model.get_input_embeddings().num_embeddings
    model.added_rows = range(before, max(before, num_rows))
    if not model.added_rows:
        return
    with torch.random.fork_rng(devices=_devices_of(model)), quiet_transformers():
        torch.manual_seed(SEED)
        model.resize_token_embeddings(num_rows, mean_resizing=True)


def added_rows(model: Any) -> range:
    """The rows that `add_rows` added."""
    return getattr(model, "added_rows", range(0))


def _devices_of(model: PreTrainedModel) -> list[int]:
    device = model.device
    return [] if device.type != "cuda" else [device.index or 0]
