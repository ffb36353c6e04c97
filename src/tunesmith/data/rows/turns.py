"""Turns of a conversation and definitions of tools, read from what people have.

Turns are {role, content}, ShareGPT's {from, value}, or either written as JSON text. A tool call is read into
{type, function: {name, arguments}} with its arguments as an object, however it was written.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tunesmith.data.rows.template import RowProblem

Message = dict[str, Any]
"""A turn as chat templates read it: role, content, and what else it holds."""

_ROLES = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "system": "system",
    "developer": "developer",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_call": "assistant",
    "ipython": "ipython",
}
_LEARNED_KEYS = ("weight", "train", "trainable", "loss")
"""Keys by which data sets say whether an assistant's turn is learned: 0 and false, or 1 and true."""


@dataclass(frozen=True)
class Turn:
    """A turn for the template, and whether an assistant's is learned or only read."""

    message: Message
    is_learned: bool = True

    @property
    def role(self) -> str:
        return str(self.message["role"])

    @property
    def says_something(self) -> bool:
        """Whether there is text or a tool call in it."""
        return any(self.message.get(key) for key in ("content", "tool_calls", "reasoning_content"))


def read_turns(value: Any, column: str, system: Any = None, *, drop_nulls: bool = False) -> list[Turn]:
    """The turns in a column's value; none where it is empty.

    system: text of a system turn that is put in front when the turns have none. drop_nulls: null fields of tool calls
    are a table's filling, as Parquet has it, and not what a row says. Raises RowProblem naming the turn.
    """
    if isinstance(value, str) and value.strip():
        value = _from_json(value, f"column {column!r}", "a list of turns with role and content")
        drop_nulls = False  # JSON text holds what was written
    if value is None or value == "":
        return []
    if not isinstance(value, list):
        raise RowProblem(
            f"column {column!r} holds {str(value)[:40]!r}. Expected a list of turns with role and content."
        )
    turns = [_read_turn(turn, f"column {column!r}, turn {number}", drop_nulls) for number, turn in enumerate(value, 1)]
    if isinstance(system, str) and system.strip() and turns and turns[0].role != "system":
        turns.insert(0, Turn({"role": "system", "content": system}))
    return turns


def read_history(value: Any) -> list[Turn]:
    """Earlier turns of an Alpaca row: a list of [instruction, response] pairs, or that as JSON text."""
    if isinstance(value, str) and value.strip():
        value = _from_json(value, "column 'history'", "a list of [instruction, response] pairs")
    if value is None or value == "":
        return []
    turns = []
    for number, pair in enumerate(value if isinstance(value, list) else [value], start=1):
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise RowProblem(
                f"column 'history', pair {number}: found {str(pair)[:40]!r}. Expected [instruction, response]."
            )
        turns += [Turn({"role": role, "content": text}) for role, text in zip(("user", "assistant"), pair, strict=True)]
    return turns


def read_tools(tools: Any, *, drop_nulls: bool = False) -> list[Message] | None:
    """Tool definitions from a list, or from one written as JSON text; None where there is none."""
    if isinstance(tools, str):
        tools = _from_json(tools, "column 'tools'", "a list of tool definitions") if tools.strip() else None
    elif drop_nulls:
        tools = _without_nulls(tools)
    if isinstance(tools, list):
        tools = [
            _from_json(tool, "column 'tools'", "a tool definition") if isinstance(tool, str) else tool for tool in tools
        ]
        tools = [_with_object(tool, "parameters") for tool in tools]
    return tools or None


def _read_turn(turn: Any, where: str, drop_nulls: bool) -> Turn:
    if not isinstance(turn, dict):
        raise RowProblem(
            f"{where}: found {str(turn)[:40]!r}. Expected an object with role and content (or from and value)."
        )
    names = ("from", "value") if "from" in turn and "role" not in turn else ("role", "content")
    role = turn.get(names[0])
    if not isinstance(role, str):
        raise RowProblem(
            f"{where}: has no {names[0]!r} (keys: {', '.join(map(str, turn))}). Expected role and content."
        )
    known = _ROLES.get(role.strip().lower())
    if known is None:
        raise RowProblem(f"{where}: unknown role {role!r}. Expected system, user, assistant or tool.")
    kept = {key: item for key, item in turn.items() if key not in (*names, *_LEARNED_KEYS) and item is not None}
    calls = _read_calls(kept.pop("tool_calls", None), kept.pop("function_call", None), where, drop_nulls)
    message = {"role": known, "content": _read_content(turn.get(names[1]), known, where), **kept}
    return Turn(message | ({"tool_calls": calls} if calls else {}), _is_learned(turn, where))


def _is_learned(turn: Message, where: str) -> bool:
    for key in _LEARNED_KEYS:
        value = turn.get(key)
        if value is None:
            continue
        said = str(value).strip().lower()
        if said in ("0", "0.0", "false"):
            return False
        if said not in ("1", "1.0", "true"):
            raise RowProblem(
                f"{where}: {key} is {value!r}. A turn is learned (1, true) or only read (0, false); there is nothing "
                "between."
            )
    return True


def _read_calls(calls: Any, older: Any, where: str, drop_nulls: bool) -> list[Message]:
    """Tool calls with arguments as objects. older: `function_call`, which came before `tool_calls`."""
    if isinstance(calls, str):
        calls = _from_json(calls, f"{where}: tool_calls", "a list of tool calls") if calls.strip() else None
        drop_nulls = False
    if older is not None and not calls:
        calls = [
            {"type": "function", "function": _from_json(older, where, "a call") if isinstance(older, str) else older}
        ]
    if not calls:
        return []
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise RowProblem(
            f"{where}: tool_calls is {str(calls)[:40]!r}. Expected a list of {{function: {{name, arguments}}}}."
        )
    if drop_nulls:
        calls = _without_nulls(calls)
    return [_read_call(call, where) for call in calls]


def _read_call(call: Message, where: str) -> Message:
    function = call.get("function", call)
    if isinstance(function, str) and "name" not in call:
        function = {"name": function, "arguments": call.get("arguments")}
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowProblem(
            f"{where}: a tool call has no function name ({str(call)[:40]!r}). "
            "Expected {function: {name, arguments}}."
        )
    function = _with_object(function, "arguments")
    if function.get("arguments") is None:
        function = {**function, "arguments": {}}
    kept = {key: item for key, item in call.items() if key in ("id", "type", "index") and item is not None}
    return {"type": "function", **kept, "function": function}


def _with_object(value: Any, key: str) -> Any:
    """A definition or call whose `key`, also inside `function`, is an object where it was JSON text of one."""
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("function"), dict):
        value = {**value, "function": _with_object(value["function"], key)}
    text = value.get(key)
    if not isinstance(text, str):
        return value
    try:
        read = json.loads(text) if text.strip() else {}
    except ValueError:
        return value
    return {**value, key: read} if isinstance(read, dict) else value


def _without_nulls(value: Any) -> Any:
    """Without fields that are null, at any depth; items of lists stay."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _from_json(text: str, where: str, expected: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        said = "text that is not JSON" if where.startswith("column") else "no JSON"
        raise RowProblem(f"{where} holds {said} ({error}). Expected {expected}.") from None


def _read_content(content: Any, role: str, where: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        return "".join(str(part.get("text") or "") for part in content)
    if role == "tool":  # what a tool returns may be any JSON
        return json.dumps(content, ensure_ascii=False)
    raise RowProblem(
        f"{where}: its content is {str(content)[:40]!r}. Expected text; images and sound cannot be learned."
    )
