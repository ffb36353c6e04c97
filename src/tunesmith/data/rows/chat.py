"""Turns to text by the model's chat template, and the parts of it that are learned: what the assistant says.

Loss falls on each assistant turn that is to be learned and on the token that ends it, never on the header that opens
the turn, which generation is given. One document holds all turns of a conversation where the template only appends: the
text up to a turn is the beginning of the text with the turn. This is checked for every row. Where a template rewrites
what it wrote (thoughts that leave earlier turns), a conversation becomes a document a turn, each as generation sees it.

A base model without a template gets DEFAULT_TEMPLATE, which needs no token that the model does not have. It is kept in
the tokenizer and so saved with the model.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from tunesmith.data.rows.controls import GUARD, ControlTokens, cut_at_guards
from tunesmith.data.rows.pieces import (
    CONTEXT,
    CONTROL_TOKENS,
    EMPTY_THOUGHTS,
    EMPTY_TURNS,
    MARK,
    SYSTEM_MOVED,
    TARGET,
    TOOLS_LEFT_OUT,
    TURN_A_DOCUMENT,
    Pieces,
    Rendered,
)
from tunesmith.data.rows.template import RowProblem
from tunesmith.data.rows.turns import Message, Turn
from tunesmith.errors import ModelError

if TYPE_CHECKING:
    from tunesmith.models.tokenizer import TextTokenizer

DEFAULT_TEMPLATE = (
    "{% if tools %}{{ '### tools:\\n' }}{% for tool in tools %}{{ (tool | tojson) + '\\n' }}{% endfor %}{{ '\\n' }}"
    "{% endif %}"
    "{% for message in messages %}{{ '### ' + message['role'] + ':\\n' + (message['content'] or '') }}"
    "{% for call in message['tool_calls'] or [] %}{{ '<tool_call>' + (call['function'] | tojson) + '</tool_call>' }}"
    "{% endfor %}{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### assistant:\\n' }}{% endif %}"
)
Learn = Literal["all", "last", "each"]
_ASKED: Message = {"role": "user", "content": "question"}
_SAID: Message = {"role": "assistant", "content": "answer"}
_SYSTEM: Message = {"role": "system", "content": "unmistakable"}
_CALL = {"type": "function", "function": {"name": "look", "arguments": {"town": "x"}}}
_OPENS_THOUGHT = re.compile(r"<think>\s*$")
_DATE = re.compile(r"strftime_now\(\s*(['\"])(.*?)\1\s*\)")


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template in a tokenizer. source: its text; name: `the model's own` or `default`.

    tools_source: the text for rows with tools. date: what a template that writes today's date writes.
    """

    tokenizer: TextTokenizer
    source: str
    name: str
    tools_source: str
    date: datetime.date

    @classmethod
    def of(cls, tokenizer: TextTokenizer, date: datetime.date | None = None) -> ChatTemplate:
        """The tokenizer's own template, or the default one. date: the run's; today where none is given."""
        own = getattr(tokenizer.backend, "chat_template", None)
        with_tools = None
        if isinstance(own, dict):
            with_tools = own.get("tool_use")
            own = own.get("default") or next(iter(own.values()), None)
        source = own or DEFAULT_TEMPLATE
        name = "the model's own" if own else "default"
        return cls(tokenizer, source, name, with_tools or source, date or datetime.date.today())

    @property
    def how(self) -> str:
        if self.name == "default":
            return "the model has no chat template, so tunesmith's default is used and saved with it"
        return "the model's own chat template"

    @property
    def writes_date(self) -> bool:
        """Whether the template writes the day on which it is used."""
        return "strftime_now" in self.source or "strftime_now" in self.tools_source

    def keep(self) -> None:
        """Have the tokenizer hold the template, so that it is saved with the model."""
        if not getattr(self.tokenizer.backend, "chat_template", None):
            self.tokenizer.backend.chat_template = self.source

    def render(self, turns: Sequence[Turn], tools: list[Message] | None = None, learn: Learn = "all") -> Rendered:
        """The documents of a conversation, up to its last learned turn; none when none of these says anything.

        Raises RowProblem when the template refuses the turns, or does not write what is to be learned.
        """
        turns, moved = self._placed(turns)
        learned = [number for number, turn in enumerate(turns) if turn.role == "assistant" and turn.is_learned]
        learned = learned[-1:] if learn == "last" else learned
        if not any(turns[number].says_something for number in learned):
            return Rendered()
        talk = self._talk(turns[: learned[-1] + 1], tools)
        spoken = [self._spoken(talk, number) for number in learned]
        together = None if learn == "each" else _together(spoken, talk.text(len(talk.turns)))
        documents = [together] if together else [one.document for one in spoken]
        documents = [cut_at_guards(document) for document in documents]
        whole = talk.text(len(talk.turns))
        facts = {
            SYSTEM_MOVED: moved,
            CONTROL_TOKENS: GUARD in whole,
            EMPTY_TURNS: any(one.is_empty for one in spoken),
            EMPTY_THOUGHTS: any(one.has_empty_thought for one in spoken),
            TURN_A_DOCUMENT: together is None and len(documents) > 1,
            TOOLS_LEFT_OUT: any(name not in whole.replace(GUARD, "") for name in _names(tools)),
        }
        return Rendered(tuple(documents), frozenset(fact for fact, is_so in facts.items() if is_so))

    def ask(self, turns: Sequence[Turn], tools: list[Message] | None = None) -> Pieces:
        """What generation is given for the assistant's next turn. Raises RowProblem when the template refuses it."""
        turns, _ = self._placed(turns)
        return cut_at_guards([(self._talk(turns, tools).text(len(turns), open_turn=True), CONTEXT)])

    def check_rows(self) -> None:
        """Raise ModelError when the template writes tokens that the model has no embedding row for."""
        from tunesmith.models.tokenizer import ADD_ROWS

        text = self._try([_ASKED, _SAID, _ASKED]) or ""
        text += self._try([_ASKED], open_turn=True) or ""
        num_rows = self.tokenizer.num_rows
        for token in self.tokenizer.encode_batch([text], control_tokens=True)[0]:
            if num_rows is not None and token >= num_rows:
                written = self.tokenizer.decode([token], skip_special_tokens=False)
                raise ModelError(
                    f"the model's chat template needs the token {written} (id {token}), and the model has {num_rows} "
                    f"embedding rows: the token was added to the tokenizer alone. To use it, {ADD_ROWS}, or remove "
                    "chat_template from its tokenizer_config.json; tunesmith's own template needs no new token."
                )

    # ------------------------------------------------------------------------------------------ one turn

    def _spoken(self, talk: _Talk, number: int) -> _Spoken:
        """An assistant's turn as it is learned: what generation is given before it, and what it says."""
        until = talk.text(number + 1)
        before = self._before(talk, number, until)
        if until.startswith(before):
            body, mark = self._split_turn(until[len(before) :])
            spoken = _Spoken(before, until, body, mark, is_empty=not body.strip())
        else:
            spoken = self._with_thought(talk, number, before, until)
        _check_written(talk.turns[number], number, spoken)
        return spoken

    def _before(self, talk: _Talk, number: int, until: str) -> str:
        """The text up to the turn, as generation is given it. Nothing opens a conversation but its own header."""
        if any(turn.role != "system" for turn in talk.turns[:number]):
            return talk.text(number, open_turn=True)
        try:
            if number:
                return talk.text(number, open_turn=True)
        except RowProblem:
            pass  # a template may ask for a user's turn before it opens the assistant's
        closed, opened = self._try([_ASKED]), self._try([_ASKED], open_turn=True)
        header = opened[len(closed) :] if closed and opened and opened.startswith(closed) else ""
        content = talk.turns[number].message["content"].strip()
        place = until.find(header) + len(header) if header and header in until else until.find(content)
        return until[:place] if content and place >= 0 else until

    def _with_thought(self, talk: _Talk, number: int, before: str, until: str) -> _Spoken:
        """A turn before which the generation prompt opens a thought that the template does not write."""
        opens = _OPENS_THOUGHT.search(before)
        if opens is None or not until.startswith(before[: opens.start()]):
            raise RowProblem(_no_beginning(before, until, number))
        written, mark = self._split_turn(until[opens.start() :])
        body = written.removeprefix("<think>").lstrip("\n")
        message = talk.turns[number].message
        is_empty = not body.strip()
        if "</think>" in body:
            return _Spoken(before, None, body, mark, is_empty=is_empty)
        thought = _thought(message)
        closed = f"{thought}\n</think>\n\n" if thought else "\n</think>\n\n"
        return _Spoken(before, None, closed + body, mark, is_empty=is_empty, has_empty_thought=not thought)

    def _split_turn(self, turn: str) -> tuple[str, str]:
        """What the assistant says and the control token that ends it; white space after that is not learned."""
        text = turn.rstrip()
        mark = max((token for token in self._all_tokens if text.endswith(token)), key=len, default="")
        return (text[: len(text) - len(mark)], mark) if mark else (text, "")

    # ------------------------------------------------------------------------------------- what templates differ in

    def _placed(self, turns: Sequence[Turn]) -> tuple[list[Turn], bool]:
        """The turns, the system's text in front of the first user turn where the template takes no system turn."""
        first = next((number for number, turn in enumerate(turns) if turn.role == "user"), None)
        if first is None or turns[0].role != "system" or self._takes_system:
            return list(turns), False
        asked = turns[first].message
        text = "\n\n".join(filter(None, (turns[0].message["content"], asked["content"])))
        return [*turns[1:first], Turn({**asked, "content": text}), *turns[first + 1 :]], True

    @cached_property
    def _takes_system(self) -> bool:
        """Whether the template writes a system turn; some raise, some leave it out."""
        told = self._try([_SYSTEM, _ASKED])
        return self._try([_ASKED]) is None or (told is not None and _SYSTEM["content"] in told)

    @cached_property
    def _takes_objects(self) -> bool:
        """Whether the template writes arguments that are objects; some join them as text, or print them as Python."""
        said = self._try([_ASKED, {**_SAID, "content": "", "tool_calls": [_CALL]}], self.tools_source)
        return said is not None and "'town'" not in said

    def _talk(self, turns: Sequence[Turn], tools: list[Message] | None) -> _Talk:
        uses_tools = bool(tools) or any(turn.role == "tool" or turn.message.get("tool_calls") for turn in turns)
        messages = [self._message(turn) for turn in turns]
        source = self.tools_source if uses_tools else self.source
        return _Talk(self, source, turns, messages, self._controls.guard(tools, own=False))

    def _message(self, turn: Turn) -> Message:
        message = turn.message
        if message.get("tool_calls") and not self._takes_objects:
            message = {**message, "tool_calls": [_with_text(call) for call in message["tool_calls"]]}
        guarded: Message = self._controls.guard(message, own=turn.role == "assistant")
        return {**guarded, "role": turn.role}

    @cached_property
    def _controls(self) -> ControlTokens:
        return ControlTokens.of(self.tokenizer.backend, (self.source, self.tools_source))

    @cached_property
    def _all_tokens(self) -> list[str]:
        backend = self.tokenizer.backend
        added = [str(token) for token in backend.added_tokens_decoder.values()]
        return [token for token in dict.fromkeys((*backend.all_special_tokens, *added)) if token.strip()]

    def _try(self, messages: list[Message], source: str | None = None, *, open_turn: bool = False) -> str | None:
        """What the template makes of a few turns; None when it refuses them."""
        try:
            return self.text(source or self.source, messages, None, open_turn=open_turn)
        except Exception:  # templates are programs that come with a model, and raise anything
            return None

    def text(self, source: str, messages: list[Message], tools: Any, *, open_turn: bool) -> str:
        """As transformers renders it, on the run's date. Raises what the template raises."""
        dated = _DATE.sub(lambda match: json.dumps(self.date.strftime(match[2])), source)
        rendered = self.tokenizer.backend.apply_chat_template(
            messages, tools=tools, chat_template=dated, tokenize=False, add_generation_prompt=open_turn
        )
        return str(rendered)


@dataclass(frozen=True)
class _Spoken:
    """An assistant's turn. before: what generation is given; until: the text with the turn, where it begins so."""

    before: str
    until: str | None
    body: str
    mark: str
    is_empty: bool
    has_empty_thought: bool = False

    @property
    def document(self) -> Pieces:
        return [(self.before, CONTEXT), (self.body, TARGET), (self.mark, MARK)]


@dataclass(frozen=True)
class _Talk:
    """A conversation as one template writes it, up to any of its turns."""

    chat: ChatTemplate
    source: str
    turns: Sequence[Turn]
    messages: list[Message]
    tools: Any
    known: dict[tuple[int, bool], str] = field(default_factory=dict)

    def text(self, num_turns: int, *, open_turn: bool = False) -> str:
        """The first turns as text. Raises RowProblem when the template refuses them."""
        known = self.known.get((num_turns, open_turn))
        if known is None:
            try:
                known = self.chat.text(self.source, self.messages[:num_turns], self.tools, open_turn=open_turn)
            except Exception as error:  # templates are programs that come with a model, and raise anything
                raise RowProblem(_refusal(self.turns[:num_turns], error)) from None
            self.known[num_turns, open_turn] = known
        return known


def _together(spoken: Sequence[_Spoken], whole: str) -> Pieces | None:
    """All turns in one document; None where the text with the last turn is not what each turn was given and said."""
    pieces: Pieces = []
    place = 0
    for one in spoken:
        if one.until is None or not whole.startswith(one.until):
            return None
        pieces += [(whole[place : len(one.before)], CONTEXT), (one.body, TARGET), (one.mark, MARK)]
        place = len(one.before) + len(one.body) + len(one.mark)
    return pieces


def _check_written(turn: Turn, number: int, spoken: _Spoken) -> None:
    """Refuse a turn of which the template leaves out what is to be learned."""
    for call in turn.message.get("tool_calls") or ():
        function = call["function"]
        arguments = function["arguments"] if isinstance(function["arguments"], dict) else {}
        said = spoken.body.replace(GUARD, "")
        if not all(str(name) in said for name in (function["name"], *arguments)):
            raise RowProblem(
                f"turn {number + 1}: the template does not write tool_calls (the call of {function['name']!r}), so it "
                "would not be learned. Use a model whose template has tools, or write the call into the turn's content."
            )
    if spoken.is_empty and turn.message["content"].strip():
        raise RowProblem(
            f"turn {number + 1}: the template writes nothing of what the assistant says "
            f"({turn.message['content'].strip()[:30]!r}), so its end alone would be learned. Set train: false "
            "on the turn."
        )


def _names(tools: list[Message] | None) -> list[str]:
    """Of the tools that say theirs."""
    definitions = [tool.get("function", tool) for tool in tools or () if isinstance(tool, dict)]
    return [str(one["name"]) for one in definitions if isinstance(one, dict) and "name" in one]


def _thought(message: Message) -> str:
    """What the assistant thinks before it answers, from a field of its own or from the content."""
    own = next((message[key] for key in ("reasoning_content", "reasoning", "thinking") if message.get(key)), None)
    content = message["content"]
    text = own if isinstance(own, str) else content.split("</think>")[0] if "</think>" in content else ""
    return text.split("<think>")[-1].strip()


def _with_text(call: Message) -> Message:
    function = call["function"]
    arguments = function["arguments"]
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {**call, "function": {**function, "arguments": text}}


def _no_beginning(before: str, until: str, number: int) -> str:
    place = next(
        (i for i, (a, b) in enumerate(zip(before, until, strict=False)) if a != b), min(len(before), len(until))
    )
    return (
        f"turn {number + 1}: the template's generation prompt is no beginning of the assistant's turn: it ends in "
        f"{_near(before, place)}, the turn is written {_near(until, place)}. What is learned would not be what "
        "the model sees when it is used. Use a model whose template opens a turn as it writes it, mend "
        "chat_template in its tokenizer_config.json, or name data.prompt and data.completion."
    )


def _near(text: str, place: int) -> str:
    return repr(text[max(0, place - 10) : place + 30].replace(GUARD, ""))


def _refusal(turns: Sequence[Turn], error: Exception) -> str:
    cause = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    roles = [turn.role for turn in turns]
    shown = ", ".join(roles[:6]) + (", ..." if len(roles) > 6 else "")
    if next((role for role in roles if role != "system"), "") == "assistant":
        advice = (
            "The assistant opens the conversation, which this template does not take: leave out its first turn, or "
            "put what it answers to in front of it as a user's turn."
        )
    elif "system" in roles[1:]:
        advice = "A system turn stands behind other turns; put its text into the first one."
    else:
        advice = "Most templates expect user and assistant in turn, after at most one system turn."
    return f"the chat template refuses these turns ({shown}): {cause}. {advice}"
