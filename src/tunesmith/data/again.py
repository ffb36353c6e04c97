"""The data of a run that exists, prepared as training had it."""

from __future__ import annotations

from collections.abc import Callable

from tunesmith.data.prepare import prepare
from tunesmith.data.tokens.asked import begun_on
from tunesmith.data.tokens.documents import Data
from tunesmith.models.positions import document_length
from tunesmith.models.tokenizer import TextTokenizer
from tunesmith.recipe import Recipe
from tunesmith.run.artefacts import DataAccount
from tunesmith.run.directory import RunDir


def prepare_again(
    run_dir: RunDir, recipe: Recipe, tokenizer: TextTokenizer, notes: list[str], say: Callable[..., None]
) -> Data:
    """The run's data from its cache or its files; a note when they changed. Raises DataError when they are gone."""
    recorded = run_dir.find(DataAccount)
    data = prepare(
        recipe.data,
        tokenizer,
        document_length(recipe.train.max_length, None) if recorded is None else recorded.max_length,
        small=recorded is not None and recorded.small,
        progress=say,
        date=begun_on(run_dir),
    )
    if recorded is not None and recorded.fingerprint != data.fingerprint:
        notes.append("The data changed since training; held-out and training rows are those of today.")
    return data
