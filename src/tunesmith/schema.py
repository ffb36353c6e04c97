"""The recipe's JSON schema: for editors, and for people who look for a key. Descriptions are the docstrings.

docs/recipe.md holds the same as tables: `python -m tunesmith.schema > docs/recipe.md`.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from tunesmith import recipe as module
from tunesmith.recipe import Recipe

HEAD = """# Every recipe key

A recipe is YAML: sections, and keys in them. An unknown key is an error that names the one that was meant; all problems
are told at once. `--set section.key=value` overrides one value. What is `auto` is decided by
[the plan](plan.md), which stands in plan.json with a reason for each value.

This page is made from the recipe's classes: `python -m tunesmith.schema > docs/recipe.md`. `tunesmith schema` prints
the same as a JSON schema; an editor that reads `# yaml-language-server: $schema=recipe.schema.json` completes recipes
with it.
"""
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


def document() -> str:
    """docs/recipe.md: a table for each section."""
    schema = recipe_schema()
    parts = [HEAD]
    for name, given in schema["properties"].items():
        definition = _section(given)
        section = schema["$defs"][definition]
        alone = getattr(module, definition).ALONE
        told = " ".join(str(section["description"]).split())
        short = f" `{name}: TEXT` is short for `{name}: {{{alone}: TEXT}}`." if alone else ""
        rows = "\n".join(_rows(section, schema["$defs"]))
        parts.append(f"## {name}\n\n{told}{short}\n\n| key | values | default | |\n|---|---|---|---|\n{rows}\n")
    return "\n".join(parts)


def _section(given: Mapping[str, Any]) -> str:
    """The name of the class of a section."""
    found = {part["$ref"] for part in [given, *given.get("anyOf", ())] if "$ref" in part}
    return str(found.pop()).rpartition("/")[2]


def _rows(section: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[str]:
    for key, value in section["properties"].items():
        default = "required" if key in section.get("required", ()) else f"`{json.dumps(value['default'])}`"
        told = value.get("description", "").replace("|", "\\|")
        yield f"| `{key}` | {' or '.join(dict.fromkeys(_values(value, definitions)))} | {default} | {told} |"


def _values(value: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[str]:
    """What may stand there, in a word each."""
    if "anyOf" in value:
        for part in value["anyOf"]:
            yield from _values(part, definitions)
    elif "enum" in value:
        yield from (f"`{choice}`" for choice in value["enum"])
    elif "const" in value:
        yield f"`{value['const']}`"
    elif "$ref" in value:
        keys = ", ".join(definitions[value["$ref"].rpartition("/")[2]]["properties"])
        yield f"{{{keys}}}"
    elif value.get("type") == "array":
        yield f"list of {' or '.join(_values(value['items'], definitions))}"
    else:
        yield _WORDS[value["type"]] + _bounds(value)


_WORDS = {"string": "text", "integer": "integer", "number": "number", "boolean": "`true`, `false`", "null": "`null`"}


def _bounds(value: Mapping[str, Any]) -> str:
    signs = (("minimum", "from"), ("exclusiveMinimum", "above"), ("maximum", "to"), ("exclusiveMaximum", "below"))
    told = [f"{word} {_number(value[name])}" for name, word in signs if name in value]
    return f" {' '.join(told)}" if told else ""


def _number(value: float) -> str:
    return f"2^{int(value).bit_length() - 1}" if value > 1e6 else f"{value:g}"


if __name__ == "__main__":
    sys.stdout.write(document())
