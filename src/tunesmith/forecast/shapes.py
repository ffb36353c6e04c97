"""The shape of a model: its config, without weights. Published models ship with the package (assets/shapes.json)."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tunesmith.errors import ModelError, PlanError
from tunesmith.models.find import EMBEDDED, ModelSource, find_model
from tunesmith.models.positions import max_positions
from tunesmith.run.directory import RunDir

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class ModelShape:
    """What a plan needs to know of a model."""

    name: str
    config: PretrainedConfig
    num_parameters: int
    origin: str
    """Where the config came from, as messages say it."""
    num_added: int = 0
    """Embedding rows, counted in the config, that the model gets when it is loaded."""

    @property
    def max_positions(self) -> int | None:
        """Longest sequence that the model was made for; None when its config does not say."""
        return max_positions(self.config)

    @property
    def dtype(self) -> Literal["float32", "bfloat16", "float16"]:
        """Type of the weights in the model's files, as its config says; float32 where it does not."""
        named = str(getattr(self.config, "dtype", None)).removeprefix("torch.")
        return "bfloat16" if named == "bfloat16" else "float16" if named == "float16" else "float32"

    def with_rows(self, num_rows: int) -> ModelShape:
        """With so many embedding rows, where it has fewer."""
        before = self.config.get_text_config().vocab_size
        if num_rows <= before:
            return self
        config = copy.deepcopy(self.config)
        config.get_text_config().vocab_size = num_rows
        return replace(self, config=config, num_parameters=_count(config), num_added=self.num_added + num_rows - before)

    def check_length(self, num_tokens: int, what: str) -> None:
        """Raise PlanError when a sequence is longer than the model."""
        if self.max_positions is not None and num_tokens > self.max_positions:
            raise PlanError(
                f"{what}: {num_tokens:,} tokens, but {self.name} sees at most {self.max_positions:,}. "
                f"Set train.max_length to {self.max_positions} or less."
            )


def find_shape(name: str, revision: str | None = None) -> ModelShape:
    """The shape of a packaged model, of a directory with a config.json (weights are not needed), of a run, or of a
    hub model.

    Raises ModelError when it cannot be found, with the file to bring, or when its architecture is not known.
    """
    path = Path(name).expanduser()
    if path.is_dir() and (path / "config.json").is_file() and not RunDir.is_run(path):
        return _shape(name, _read_config(path / "config.json"), str(path / "config.json"))
    packaged = None if path.exists() or revision is not None else _packaged(name)
    if packaged is not None:
        return _shape(name, packaged, "the shapes that ship with tunesmith")
    try:
        source = find_model(name, revision, weights=False)
    except ModelError as error:
        if path.exists() or "hub cannot be asked" not in str(error):
            raise
        raise ModelError(
            f"{error} To plan without the hub, put the model's config.json in a directory and name that directory in "
            f"model.name. Shapes that ship with tunesmith: {', '.join(_table()['shapes'])}."
        ) from None
    file = Path(source.path) / "config.json"
    return _shape(name, _read_config(file), str(file))


def shape_of(source: ModelSource) -> ModelShape:
    """The shape of a model that was found already. Raises ModelError when its architecture is not known."""
    file = Path(source.path) / "config.json"
    return _shape(source.name, _read_config(file), str(file)).with_rows(source.rows or 0)


@cache
def _table() -> dict[str, Any]:
    text = resources.files("tunesmith").joinpath("assets/shapes.json").read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(text)
    table["aliases"][EMBEDDED] = "HuggingFaceTB/SmolLM2-135M"
    return table


def _packaged(name: str) -> dict[str, Any] | None:
    """Config values of a hub id, whatever its case."""
    table = _table()
    shapes = {key.lower(): values for key, values in table["shapes"].items()}
    aliases = {key.lower(): target.lower() for key, target in table["aliases"].items()}
    return shapes.get(aliases.get(name.lower(), name.lower()))


def _read_config(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file}: not readable JSON ({error}). The file is damaged; copy it again.") from None
    if not isinstance(values, dict):
        raise ModelError(f"{file}: expected a JSON object, found {type(values).__name__}.")
    return values


def _shape(name: str, values: dict[str, Any], origin: str) -> ModelShape:
    import torch
    from transformers import AutoConfig

    from tunesmith.fast.families import family_of
    from tunesmith.forecast.tracing.simulate import build_on_meta

    values = dict(values)
    model_type = values.pop("model_type", None)
    if not isinstance(model_type, str):
        raise ModelError(
            f"{origin}: names no model_type, so its attention is not known. Expected a transformers config."
        )
    try:
        config = AutoConfig.for_model(model_type, **values)
        model = build_on_meta(config, dtype=torch.float32)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise ModelError(f"{origin}: no causal language model with a known attention ({first}).") from None
    family_of(model)
    return ModelShape(name, config, sum(parameter.numel() for parameter in model.parameters()), origin)


def _count(config: PretrainedConfig) -> int:
    import torch

    from tunesmith.forecast.tracing.simulate import build_on_meta

    return sum(parameter.numel() for parameter in build_on_meta(config, dtype=torch.float32).parameters())
