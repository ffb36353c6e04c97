"""Turns to text by the model's chat template, and the parts of it that are learned: what the assistant says.

Loss falls on each assistant turn and on the token that ends it, never on the header that opens the turn, which
generation is given. That is well defined when the template only ever appends: the text up to a turn must be the
beginning of the text with the turn. This is checked for every row.

A base model without a template gets DEFAULT_TEMPLATE, which needs no token that the model does not have. It is kept in
the tokenizer and so saved with the model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tunesmith.data.rows.pieces import CONTEXT, MARK, TARGET, Pieces
from tunesmith.data.rows.template import RowProblem

if TYPE_CHECKING:
    from tunesmith.models.tokenizer import TextTokenizer

DEFAULT_TEMPLATE = (
    "{% for message in messages %}{{ '### ' + message['role'] + ':\\n' + (message['content'] or '') }}{% if "
    "message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n\\n' }}{% endfor %}{% if add_generation_prompt "
    "%}{{ '### assistant:\\n' }}{% endif %}"
)
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

Turn = dict[str, Any]


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template in a tokenizer. source: its text; name: `the model's own` or `default`."""

    tokenizer: TextTokenizer
    source: str
    name: str

    @classmethod
    def of(cls, tokenizer: TextTokenizer) -> ChatTemplate:
        """The tokenizer's own template, or the default one."""
        own = getattr(tokenizer.backend, "chat_template", None)
        if isinstance(own, dict):
            own = own.get("default")
        return cls(tokenizer, own or DEFAULT_TEMPLATE, "the model's own" if own else "default")

    @property
    def how(self) -> str:
        if self.name == "default":
            return "the model has no chat template, so tunesmith's default is used and saved with it"
        return "the model's own chat template"

    def keep(self) -> None:
        """Have the tokenizer hold the template, so that it is saved with the model."""
        if not getattr(self.tokenizer.backend, "chat_template", None):
            self.tokenizer.backend.chat_template = self.source

    def render(self, turns: Sequence[Turn], tools: Any) -> Pieces:
        """The conversation in pieces, up to its last assistant turn; none when the assistant says nothing.

        Raises RowProblem when the template refuses the turns or does not only append.
        """
        spoken = [number for number, turn in enumerate(turns) if turn["role"] == "assistant"]
        if not any(turns[number].get("content") or turns[number].get("tool_calls") for number in spoken):
            return []
        tools = _read_tools(tools)
        whole = self._text(turns[: spoken[-1] + 1], tools)
        pieces: Pieces = []
        place = 0
        for number in spoken:
            before = self._text(turns[:number], tools, open_turn=True)
            until = whole if number == spoken[-1] else self._text(turns[: number + 1], tools)
            _check_appends(before, until, whole, number)
            body, mark = self._split_turn(whole[len(before) : len(until)])
            pieces += [(whole[place : len(before)], CONTEXT), (body, TARGET), (mark, MARK)]
            place = len(before) + len(body) + len(mark)
        return [piece for piece in pieces if piece[0]]

    def _split_turn(self, turn: str) -> tuple[str, str]:
        """What the assistant says and the control token that ends it; white space after that is not learned."""
        text = turn.rstrip()
        mark = max((token for token in self._control_tokens if text.endswith(token)), key=len, default="")
        return (text[: len(text) - len(mark)], mark) if mark else (text, "")

    @cached_property
    def _control_tokens(self) -> list[str]:
        backend = self.tokenizer.backend
        added = [str(token) for token in backend.added_tokens_decoder.values()]
        return [token for token in dict.fromkeys((*backend.all_special_tokens, *added)) if token.strip()]

    def _text(self, turns: Sequence[Turn], tools: Any, *, open_turn: bool = False) -> str:
        try:
            text = self.tokenizer.backend.apply_chat_template(
                list(turns), tools=tools, chat_template=self.source, tokenize=False, add_generation_prompt=open_turn
            )
        except Exception as error:  # templates are programs that come with a model, and raise anything
            raise RowProblem(
                f"the chat template refuses these turns ({_roles(turns)}): {str(error).splitlines()[0]}. Most "
                "templates expect user and assistant in turn, after at most one system turn."
            ) from None
        return str(text)


def _check_appends(before: str, until: str, whole: str, number: int) -> None:
    if until.startswith(before) and whole.startswith(until):
        return
    shorter, longer = (before, until) if not until.startswith(before) else (until, whole)
    place = next((i for i, (a, b) in enumerate(zip(shorter, longer, strict=False)) if a != b), len(longer))
    raise RowProblem(
        f"the model's chat template changes what it wrote for turns 1 to {number + 1} when turns follow: "
        f"{_near(shorter, place)} becomes {_near(longer, place)}. What the assistant is asked to learn would not be "
        "what it sees when it is used. Use conversations with one assistant turn, or a model whose template only "
        "appends."
    )


def _near(text: str, place: int) -> str:
    return repr(text[max(0, place - 10) : place + 30])


def _roles(turns: Sequence[Turn]) -> str:
    roles = [str(turn["role"]) for turn in turns]
    return ", ".join(roles[:6]) + (", ..." if len(roles) > 6 else "") if roles else "no turn before the assistant's"


def _read_tools(tools: Any) -> Any:
    if isinstance(tools, str):
        if not tools.strip():
            return None
        try:
            return json.loads(tools)
        except ValueError as error:
            raise RowProblem(f"column 'tools' is not JSON ({error}). Expected a list of tool definitions.") from None
    return tools or None


def read_turns(value: Any, column: str, system: Any = None) -> list[Turn]:
    """Turns as {role, content, ...} from messages, from ShareGPT's {from, value}, or from either written as JSON text.

    system: text of a system turn that is put in front when the turns have none. Raises RowProblem naming the turn.
    """
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except ValueError as error:
            raise RowProblem(
                f"column {column!r} holds text that is not JSON ({error}). Expected a list of turns with role and "
                "content."
            ) from None
    if value is None or value == "":
        return []
    if not isinstance(value, list):
        raise RowProblem(
            f"column {column!r} holds {str(value)[:40]!r}. Expected a list of turns with role and content."
        )
    turns = [_read_turn(turn, number, column) for number, turn in enumerate(value, start=1)]
    if isinstance(system, str) and system.strip() and turns and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": system})
    return turns


def _read_turn(turn: Any, number: int, column: str) -> Turn:
    where = f"column {column!r}, turn {number}"
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
    others = {key: item for key, item in turn.items() if key not in names and item is not None}
    return {"role": known, "content": _read_content(turn.get(names[1]), where), **others}


def _read_content(content: Any, where: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        return "".join(str(part.get("text") or "") for part in content)
    raise RowProblem(
        f"{where}: its content is {str(content)[:40]!r}. Expected text; images and sound cannot be learned."
    )
