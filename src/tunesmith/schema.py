"""The recipe's JSON schema: for editors, and for people who look for a key. Descriptions are the docstrings."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping
from typing import Any

from tunesmith import recipe as module
from tunesmith.recipe import Recipe

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def recipe_schema() -> dict[str, Any]:
    """JSON schema (2020-12) of a recipe as YAML holds it; `model` and `data` may be plain text there too."""
    schema = Recipe.model_json_schema(mode="validation")
    documented = _descriptions()
    for name, section in {"Recipe": schema, **schema["$defs"]}.items():
        section["description"] = inspect.cleandoc(getattr(module, name).__doc__)
        for key, value in section["properties"].items():
            value.pop("title", None)
            if described := documented.get((name, key)):
                value["description"] = described
    for key, field in Recipe.model_fields.items():
        alone = getattr(field.annotation, "ALONE", None)
        if alone is not None:
            text = {"type": "string", "description": f"Short for {{{alone}: ...}}."}
            schema["properties"][key] = {"anyOf": [schema["properties"][key], text]}
    return {"$schema": DIALECT, **schema}


def _descriptions() -> Mapping[tuple[str, str], str]:
    """The text below each field, by class and field; Python itself does not keep it."""
    found: dict[tuple[str, str], str] = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for field, after in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                found[node.name, field.target.id] = " ".join(str(after.value.value).split())
    return found
