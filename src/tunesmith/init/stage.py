"""Write a first recipe: for data that is looked at, from another tool's configuration, or a template."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from tunesmith.errors import DataError, ModelError, RecipeError
from tunesmith.recipe import Recipe

if TYPE_CHECKING:
    from tunesmith.audit.findings import AuditReport
    from tunesmith.data.read.table import Table
    from tunesmith.init.suggest import Suggestion
    from tunesmith.models.find import ModelSource

LOOKED_ROWS = 2000
"""Rows that the audit looks at: enough to see what is wrong, in seconds."""
DEFAULT_NAME = "recipe.yaml"


@dataclass(frozen=True)
class Written:
    """A recipe file, what was found and chosen (lines for a person), and the folder that its run is to go to."""

    path: Path
    said: tuple[str, ...]
    out: str | None = None
    is_template: bool = False


def from_data(data: str, out: Path | None, doing: Callable[..., None], *, force: bool = False) -> Written:
    """Look at `data`, audit some of it, and write a recipe for it.

    Raises RecipeError where a file stands in the way, DataError where the data is not fit, ModelError.
    """
    path = _place(out, _name_for(data), force)
    doing("looking at the data")
    from tunesmith.init.look import look, open_first
    from tunesmith.init.suggest import suggest
    from tunesmith.init.text import FEW_ROWS, for_data, held_out_share

    table, num_files = open_first(data)
    suggestion = suggest(chat=_may_be_chat(table))
    suggestion, source = _found(suggestion, doing)
    doing("loading the tokenizer")
    from tunesmith.audit.findings import describe
    from tunesmith.audit.stage import audit_recipe
    from tunesmith.data.rows.chat import ChatTemplate
    from tunesmith.models.tokenizer import load_tokenizer

    looked = look(data, table, num_files, ChatTemplate.of(load_tokenizer(source)))
    recipe = Recipe.parse(
        {
            "model": {"name": suggestion.name},
            "data": {"path": data, "max_rows": LOOKED_ROWS, **dict(looked.keys)},
        }
    )
    doing("auditing the data")
    try:
        report = audit_recipe(recipe, progress=doing)
        num_rows, rows = _num_rows(report)
        if num_rows is not None and num_rows < FEW_ROWS:  # once more, as the recipe will split them
            split = recipe.with_values(**{"data.eval_fraction": held_out_share(num_rows)})
            report = audit_recipe(split, progress=doing)
        warnings = [
            describe(finding)
            for finding in (*report.blocks, *report.warnings)
            if finding.name != "held out" or num_rows is None or num_rows >= FEW_ROWS  # then more are held out
        ]
    except DataError as error:  # a recipe is where that is mended
        num_rows, rows, warnings = None, "not all of it can be used as it is", [str(error)]
    _write(path, for_data(looked, suggestion, num_rows, warnings))
    said = (f"{looked.found}; {rows}", f"rows: {looked.how}", f"model: {suggestion.name}, {suggestion.why}", *warnings)
    return Written(path, said)


def from_config(config: Path, out: Path | None, *, force: bool = False) -> Written:
    """Turn another tool's configuration into a recipe. Raises RecipeError."""
    from tunesmith.init.convert import convert

    made = convert(config)
    path = _place(out, f"{config.stem}-tunesmith.yaml", force)
    _write(path, made.text())
    said = [f"{setting.origin} -> {setting.key}" for setting in made.settings.values()]
    said += [f"left out: {item.origin}: {item.why}" for item in made.left_out]
    return Written(path, tuple(said), made.out)


def from_nothing(out: Path | None, *, force: bool = False) -> Written:
    """Write a template. Raises RecipeError where a file stands in the way."""
    from tunesmith.init.suggest import suggest
    from tunesmith.init.text import template

    path = _place(out, DEFAULT_NAME, force)
    suggestion = suggest(chat=False)
    _write(path, template(suggestion))
    said = (f"model: {suggestion.name}, {suggestion.why}", "set data.path and what a row is, then:")
    return Written(path, said, is_template=True)


def _found(suggestion: Suggestion, doing: Callable[..., None]) -> tuple[Suggestion, ModelSource]:
    """The suggested model's tokenizer and config; where it cannot be had, the embedded model in its place."""
    from tunesmith.models.find import EMBEDDED, find_model

    doing("finding the model")
    try:
        return suggestion, find_model(suggestion.name, weights=False)
    except ModelError as error:
        if suggestion.name == EMBEDDED:
            raise
        instead = replace(
            suggestion, name=EMBEDDED, why=f"embedded, nothing is downloaded ({suggestion.name} could not be had)"
        )
        try:
            return instead, find_model(EMBEDDED, weights=False)
        except ModelError:
            raise error from None


def _may_be_chat(table: Table) -> bool:
    return bool({"messages", "conversations", "conversation", "instruction"} & set(table.columns))


def _num_rows(report: AuditReport) -> tuple[int | None, str]:
    """Rows, None where there may be more than were looked at; and in words."""
    if report.num_documents < LOOKED_ROWS * 0.9:
        return report.num_documents, f"{report.num_documents:,} rows"
    return None, f"the first {LOOKED_ROWS:,} rows were looked at"


def _name_for(data: str) -> str:
    """`shows.csv.gz` -> shows.yaml, a folder by its name, `data/*.csv` by its folder."""
    pure = PurePath(data.removeprefix("hub:").split(":")[0] if data.startswith("hub:") else data.rstrip("/"))
    while set(pure.name) & set("*?[]"):
        pure = pure.parent
    name = pure.name if pure.name not in ("", "..") else Path(data).resolve().name
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", name.split(".")[0]).strip("-")
    return f"{stem or 'recipe'}.yaml"


def _place(out: Path | None, name: str, force: bool) -> Path:
    path = out if out is not None else Path(name)
    if path.is_dir():
        path = path / name
    if path.exists() and not force:
        raise RecipeError(f"{path}: is there already. Give another name with -o, or --force to write it anew.")
    if not path.parent.is_dir():
        raise RecipeError(f"{path}: the folder {path.parent} does not exist. Make it first, or give another -o.")
    return path


def _write(path: Path, text: str) -> None:
    from tunesmith.disk import disk_errors

    with disk_errors(path):
        path.write_text(text, encoding="utf-8")
    Recipe.load(path)  # what was written can be read
