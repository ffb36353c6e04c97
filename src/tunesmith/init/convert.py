"""Another tool's configuration as settings of a recipe, and what has no counterpart.

Nothing is guessed silently: each setting keeps the name and value that it came from, and what a recipe counts otherwise
or does not have is listed with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from tunesmith.errors import RecipeError
from tunesmith.foreign import NoCounterpart, find_foreign, number
from tunesmith.init.sources import data_settings, is_about_data
from tunesmith.init.text import Line, Section, scalar, write
from tunesmith.models.find import EMBEDDED
from tunesmith.recipe import MAX_RECIPE_BYTES, Recipe

PLACEHOLDER = "data.jsonl"
OTHER_TRAINING = (
    "rl",
    "dpo_beta",
    "beta",
    "reward_model",
    "reward_funcs",
    "stage",
    "kto_beta",
    "loss_type",
    "pref_beta",
)
"""Settings of training on preferences, which is another task."""
SAME = {
    "learning_rate": "train.learning_rate",
    "weight_decay": "train.weight_decay",
    "max_steps": "train.max_steps",
    "max_grad_norm": "train.max_grad_norm",
    "max_length": "train.max_length",
    "gradient_checkpointing": "train.gradient_checkpointing",
    "optimizer": "train.optimizer",
    "seed": "train.seed",
    "report_to": "train.report_to",
    "dtype": "model.dtype",
    "revision": "model.revision",
}
"""Names that are ours too, without the section."""


@dataclass(frozen=True)
class Setting:
    """A recipe value, and the setting that it came from."""

    key: str
    value: object
    origin: str


@dataclass(frozen=True)
class LeftOut:
    """A setting that has no counterpart, and why."""

    origin: str
    why: str


@dataclass
class Converted:
    """A configuration as a recipe: settings by key, what was left out, and the folder that runs went to."""

    where: str
    settings: dict[str, Setting] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)
    out: str | None = None

    def take(self, key: str, value: object, origin: str) -> None:
        """Keep a setting if a recipe accepts its value; the first of a key stays, but qlora counts more than lora."""
        problem = _problem(key, value)
        known = self.settings.get(key)
        if problem is not None:
            self.left_out.append(LeftOut(origin, problem))
        elif known is None or (key == "train.method" and value == "qlora"):
            self.settings[key] = Setting(key, value, origin if known is None else f"{known.origin}, {origin}")
        elif known.value != value:
            self.left_out.append(LeftOut(origin, f"{key} is {scalar(known.value)} already, by {known.origin}"))

    def text(self) -> str:
        """The recipe, each value with its origin, what was left out below."""
        head = [f"Written by `tunesmith init --from {self.where}`. Each value's origin stands beside it."]
        sections = {name: Section(name) for name in Recipe.model_fields}
        if "model.name" not in self.settings:
            sections["model"].lines.append(Line("name", EMBEDDED, f"{self.where} names no model"))
        if "data.path" not in self.settings:
            sections["data"].lines.append(Line("path", PLACEHOLDER, f"{self.where} names no file: name yours"))
        for setting in self.settings.values():
            section, name = setting.key.split(".", 1)
            sections[section].lines.append(Line(name, setting.value, setting.origin))
        text = write(head, [section for section in sections.values() if section.lines])
        if not self.left_out:
            return text
        lines = [f"#   {item.origin}: {' '.join(item.why.split())}" for item in self.left_out]
        return text + "\n# Without a counterpart, left out:\n" + "\n".join(lines) + "\n"


def convert(path: Path) -> Converted:
    """Read a configuration of Axolotl, LLaMA-Factory, TRL or transformers (YAML or JSON).

    Raises RecipeError when it cannot be read, or is a recipe already.
    """
    values = _read(path)
    if isinstance(values.get("model"), Mapping) and "data" in values:
        raise RecipeError(f"{path}: is a recipe already. Train it: tunesmith train {path}")
    made = Converted(str(path))
    for found in data_settings(values, path.parent):
        if found.key:
            made.take(found.key, found.value, found.origin)
        else:
            made.left_out.append(LeftOut(found.origin, found.why))
    for name, value in values.items():
        if value is not None and not is_about_data(name):
            _take(made, name, value)
    if not made.settings:
        raise RecipeError(
            f"{path}: none of its names is known ({', '.join(list(values)[:6])}). Expected a configuration of Axolotl, "
            "LLaMA-Factory, TRL or transformers; docs/names.md lists the names."
        )
    return made


def _take(made: Converted, name: str, value: object) -> None:
    origin = f"{name}: {_short(value)}"
    key, entry = SAME.get(name.lower()), find_foreign(name)
    if name.lower() in OTHER_TRAINING:
        _take_task(made, name, value, origin)
    elif key is not None:
        _take_same(made, key, value, origin)
    elif entry is None:
        made.left_out.append(LeftOut(origin, "no counterpart"))
    elif entry.ours == "--out":
        made.out = str(value)
    elif "." not in entry.ours:
        made.left_out.append(LeftOut(origin, entry.how if not entry.ours else f"{entry.ours}, {entry.how}"))
    else:
        try:
            made.take(entry.ours, entry.convert(value), origin)
        except NoCounterpart as why:
            made.left_out.append(LeftOut(origin, str(why)))


def _take_same(made: Converted, key: str, value: object, origin: str) -> None:
    """A name that is ours too; its values may still be other words."""
    other = {"train.optimizer": "optim", "model.dtype": "torch_dtype"}.get(key)
    entry = find_foreign(other) if other is not None else None
    if key == "train.report_to" and (value in ("none", "all") or value == ["none"]):
        made.left_out.append(LeftOut(origin, "no tracker is told unless it is named"))
        return
    if key == "train.max_steps" and number(value) in (-1, 0):
        return  # no limit
    try:
        made.take(key, number(value) if entry is None else entry.convert(value), origin)
    except NoCounterpart as why:
        made.left_out.append(LeftOut(origin, str(why)))


def _take_task(made: Converted, name: str, value: object, origin: str) -> None:
    if name.lower() == "stage" and str(value).lower() in ("sft", "pt"):
        return
    made.left_out.append(
        LeftOut(origin, "training on preferences or rewards is another task; the recipe only imitates")
    )


def _problem(key: str, value: object) -> str | None:
    """Why a recipe refuses a value, or None."""
    section, name = key.split(".", 1)
    values: dict[str, dict[str, object]] = {"model": {"name": "m"}, "data": {"path": "d"}}
    values.setdefault(section, {})[name] = value
    if key in ("data.prompt", "data.completion"):
        values["data"] = {"path": "d", "prompt": "p", "completion": "c", name: value}
    try:
        Recipe.parse(dict(values))
    except RecipeError as error:
        return str(error).splitlines()[0].removeprefix("recipe: ")
    return None


def _read(path: Path) -> Mapping[str, object]:
    if not path.is_file():
        raise RecipeError(
            f"{path}: no such file. Expected a configuration of Axolotl, LLaMA-Factory, TRL or transformers."
        )
    if path.stat().st_size > MAX_RECIPE_BYTES:
        raise RecipeError(f"{path}: {path.stat().st_size} bytes. A configuration has at most {MAX_RECIPE_BYTES}.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise RecipeError(f"{path}: neither YAML nor JSON: {str(error).splitlines()[0]}") from None
    if not isinstance(values, dict) or not values:
        raise RecipeError(f"{path}: expected names with values, found {type(values).__name__}.")
    return {str(name): value for name, value in values.items()}


def _short(value: object) -> str:
    text = scalar(value)
    return text if len(text) <= 60 else text[:57] + "..."
