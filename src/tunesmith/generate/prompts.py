"""Prompts from a file or standard input. Imports no torch: what is wrong with them is said at once."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tunesmith.errors import DataError
from tunesmith.redact import first_line

STDIN = "-"


def read_prompts(path: str) -> list[str]:
    """The prompts of a file or, for `-`, of standard input: one a line, empty lines left out; of a .jsonl file the
    strings, or `prompt` of the objects, that its lines hold. Raises DataError that names the line."""
    try:
        text = sys.stdin.read() if path == STDIN else Path(path).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)}). Expected prompts as UTF-8 text.") from None
    lines = [(number, line) for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1) if line.strip()]
    if not lines:
        raise DataError(f"{path}: holds no prompts. Expected one a line.")
    if not path.endswith((".jsonl", ".ndjson")):
        return [line for _, line in lines]
    return [_prompt_of(path, number, line) for number, line in lines]


def _prompt_of(path: str, number: int, line: str) -> str:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}:{number}: not valid JSON ({error}).") from None
    prompt = value.get("prompt") if isinstance(value, dict) else value
    if not isinstance(prompt, str):
        raise DataError(f'{path}:{number}: expected a string or an object with a "prompt", found {line[:60]!r}.')
    return prompt
