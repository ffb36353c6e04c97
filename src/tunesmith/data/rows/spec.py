"""What a row is: text, a template over columns, prompt and completion, or chat."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from tunesmith.data.read.table import Table, list_columns
from tunesmith.data.rows.chat import ChatTemplate, Learn
from tunesmith.data.rows.pieces import CONTEXT, TARGET, Rendered
from tunesmith.data.rows.template import RowProblem, Template, column_text, parse_template
from tunesmith.data.rows.turns import Message, Turn, read_history, read_tools, read_turns
from tunesmith.errors import DataError
from tunesmith.recipe import DataSection

Render = Callable[[Mapping[str, object]], Rendered]
_FILLED = ("parquet", "datasets")
"""Kinds of tables that fill the fields that a row lacks with null."""
_TURNS = ("messages", "conversations", "conversation")
"""Columns that hold chat turns, by their names."""
_LEARN = {
    "all": "",
    "last": "; the last assistant turn is learned, as data.turns says",
    "each": "; every assistant turn is learned, in a document of its own, as data.turns says",
}


@dataclass(frozen=True)
class RowSpec:
    """How the rows of one table are rendered.

    kind: text, template, prompt, chat. columns: the columns that are needed. how: one line that says what was chosen.
    render: values -> documents, none when the row holds no text; raises RowProblem.
    """

    kind: str
    columns: tuple[str, ...]
    how: str
    render: Render


def choose_rows(section: DataSection, table: Table, chat: ChatTemplate) -> RowSpec:
    """Decide what the rows of `table` are, from the recipe or else from the columns.

    Raises DataError when the columns named do not exist, hold
    no text, or none was named and more than one could be meant.
    """
    if section.prompt is not None and section.completion is not None:
        if _holds_turns(table, section.prompt) and _holds_turns(table, section.completion):
            return _asked_and_said(section.prompt, section.completion, table, chat, section.turns)
        return _prompt_rows(section.prompt, section.completion, table)
    if section.messages is not None:
        how = f"chat turns in {section.messages!r}, as the recipe says"
        return _chat_rows(section.messages, table, chat, how, section.turns)
    if section.text is not None:
        return _text_rows(section.text, table)
    return _recognise(table, chat, section.turns)


def _text_rows(source: str, table: Table, how: str | None = None) -> RowSpec:
    if table.plain_text:
        template = parse_template("data.text", "text", table.columns, table.name)
        return RowSpec("text", ("text",), how or "the text of the file", _text_renderer(template))
    template = parse_template("data.text", source, table.columns, table.name)
    single = len(template.parts) == 1
    if single:
        _check_text(table, template.columns[0])
    said = f"text in column {source!r}" if single else f"text by the template {source!r}"
    return RowSpec("text" if single else "template", template.columns, how or said, _text_renderer(template))


def _text_renderer(template: Template) -> Render:
    def render(values: Mapping[str, object]) -> Rendered:
        text = template.render(values)
        return Rendered.of([(text, TARGET)] if text and not text.isspace() else [])

    return render


def _prompt_rows(prompt: str, completion: str, table: Table, how: str | None = None) -> RowSpec:
    if table.plain_text:
        raise DataError(
            f"{table.name}: is plain text, which has no prompt and completion columns. Expected csv, jsonl or parquet."
        )
    before = parse_template("data.prompt", prompt, table.columns, table.name)
    after = parse_template("data.completion", completion, table.columns, table.name)

    def render(values: Mapping[str, object]) -> Rendered:
        learned = after.render(values)
        if not learned or learned.isspace():
            return Rendered()
        read = before.render(values)
        return Rendered.of([(read, CONTEXT), (learned, TARGET)] if read else [(learned, TARGET)])

    _note_join(table, before, after)
    columns = tuple(dict.fromkeys((*before.columns, *after.columns)))
    return RowSpec("prompt", columns, how or f"prompt {prompt!r}, completion {completion!r}", render)


def _chat_rows(column: str, table: Table, chat: ChatTemplate, how: str, learn: Learn) -> RowSpec:
    name = parse_template("data.messages", column, table.columns, table.name).columns[0]
    extra = _beside(table, name)
    filled = table.kind in _FILLED

    def render(values: Mapping[str, object]) -> Rendered:
        turns = read_turns(
            values.get(name), name, values.get("system") if "system" in extra else None, drop_nulls=filled
        )
        return chat.render(turns, _tools(values, extra, filled=filled), learn) if turns else Rendered()

    chat.check_rows()
    return RowSpec("chat", (name, *extra), f"{how}; {chat.how}{_LEARN[learn]}", render)


def _asked_and_said(prompt: str, completion: str, table: Table, chat: ChatTemplate, learn: Learn) -> RowSpec:
    """Turns to read in one column, turns to learn in another."""
    extra = _beside(table, prompt, completion)
    filled = table.kind in _FILLED

    def render(values: Mapping[str, object]) -> Rendered:
        system = values.get("system") if "system" in extra else None
        asked = read_turns(values.get(prompt), prompt, system, drop_nulls=filled)
        said = read_turns(values.get(completion), completion, drop_nulls=filled)
        turns = [*(Turn(turn.message, is_learned=False) for turn in asked), *said]
        return chat.render(turns, _tools(values, extra, filled=filled), learn) if said else Rendered()

    chat.check_rows()
    how = f"chat turns in {prompt!r}, which are read, and {completion!r}, which are learned; {chat.how}{_LEARN[learn]}"
    return RowSpec("chat", (prompt, completion, *extra), how, render)


def _beside(table: Table, *columns: str) -> tuple[str, ...]:
    return tuple(name for name in ("system", "tools") if name in table.columns and name not in columns)


def _tools(values: Mapping[str, object], columns: tuple[str, ...], *, filled: bool) -> list[Message] | None:
    return read_tools(values.get("tools"), drop_nulls=filled) if "tools" in columns else None


def _recognise(table: Table, chat: ChatTemplate, learn: Learn) -> RowSpec:
    columns = set(table.columns)
    if table.plain_text:
        return _text_rows("text", table)
    for name in _TURNS:
        if name in columns and _holds_turns(table, name):
            shape = "ShareGPT" if name != "messages" else "messages"
            return _chat_rows(name, table, chat, f"chat turns in {name!r} ({shape} columns recognised)", learn)
    if {"instruction", "output"} <= columns:
        return _alpaca_rows(table, chat, learn)
    if {"prompt", "completion"} <= columns:
        if _holds_turns(table, "prompt") and _holds_turns(table, "completion"):
            return _asked_and_said("prompt", "completion", table, chat, learn)
        return _prompt_rows("prompt", "completion", table, "prompt and completion columns recognised")
    if "text" in columns:
        return _text_rows("text", table, "text in column 'text', recognised by its name")
    only = _only_text(table)
    return _text_rows(only, table, f"text in column {only!r}, the only one that holds text")


def check_recognised(table: Table) -> None:
    """Raises DataError where no name of a column says what the rows are, and not just one holds text."""
    columns = set(table.columns)
    if table.plain_text or any(
        names <= columns for names in ({"instruction", "output"}, {"prompt", "completion"}, {"text"})
    ):
        return
    if not any(name in columns and _holds_turns(table, name) for name in _TURNS):
        _only_text(table)


def _only_text(table: Table) -> str:
    texts = text_columns(table)
    if len(texts) == 1:
        return texts[0]
    found = f"{len(texts)} hold text" if texts else "none holds text"
    longest = texts[0] if texts else "COLUMN"
    raise DataError(
        f"{table.name}: no column was chosen and {found}. Columns: {list_columns(table.columns)}. Set data.text: "
        f"{longest}"
        + (
            f', or a template such as "{{{table.columns[0]}}}: {{{longest}}}".'
            if texts
            else " to the one that holds it."
        )
    )


def _alpaca_rows(table: Table, chat: ChatTemplate, learn: Learn) -> RowSpec:
    extra = tuple(name for name in ("input", "system", "history") if name in table.columns)

    def render(values: Mapping[str, object]) -> Rendered:
        answer = column_text(values, "output")
        if not answer.strip():
            return Rendered()
        asked = "\n\n".join(text for name in ("instruction", "input") if (text := column_text(values, name).strip()))
        turns = [Turn({"role": "user", "content": asked}), Turn({"role": "assistant", "content": answer})]
        if "history" in extra:
            turns = [*read_history(values.get("history")), *turns]
        if system := column_text(values, "system").strip():
            turns.insert(0, Turn({"role": "system", "content": system}))
        return chat.render(turns, None, learn)

    chat.check_rows()
    earlier = " after those of history" if "history" in extra else ""
    how = f"Alpaca columns recognised (instruction, output): a user and an assistant turn{earlier}; {chat.how}"
    return RowSpec("chat", ("instruction", "output", *extra), how + _LEARN[learn], render)


def _holds_turns(table: Table, column: str) -> bool:
    values = [value for values in table.sample if (value := values.get(column)) not in (None, "")]
    return any(isinstance(value, list) or (isinstance(value, str) and value.lstrip()[:1] == "[") for value in values)


def _note_join(table: Table, before: Template, after: Template) -> None:
    """Say so when prompts run into their completions without a space or a line between them."""
    joins = []
    for values in table.sample:
        with suppress(RowProblem):
            joins.append(before.render(values)[-1:] + after.render(values)[:1])
    joins = [join for join in joins if len(join) == 2]
    if joins and sum(join.isalnum() or (join[0] in ".?!:" and join[1].isalnum()) for join in joins) > len(joins) / 2:
        table.about.notes.append(
            f"{table.name}: prompts run into their completions without a space; if that is not meant, set data.prompt "
            "to a template that ends in one"
        )


def _check_text(table: Table, column: str) -> None:
    """Refuse a column of numbers: training on years or prices by mistake looks like success."""
    values = [values.get(column) for values in table.sample]
    texts = [value for value in values if isinstance(value, str) and value.strip()]
    if texts and all(_is_number(text) for text in texts):
        others = [name for name in table.columns if name != column and _holds_text(table, name)]
        raise DataError(
            f"{table.row_name(0)}: column {column!r} holds numbers ({', '.join(texts[:3])}), expected text. "
            + (f"Columns with text: {list_columns(others)}." if others else "No column holds text.")
            + f' If numbers are meant, set data.text: "{{{column}}} ".'
        )


def _holds_text(table: Table, column: str) -> bool:
    values = [value for values in table.sample if (value := values.get(column)) not in (None, "")]
    texts = [value for value in values if isinstance(value, str)]
    return bool(values) and len(texts) == len(values) and not all(map(_is_number, texts))


def text_columns(table: Table) -> list[str]:
    """The columns that hold text, that with most of it first."""
    texts = [name for name in table.columns if _holds_text(table, name)]
    return sorted(texts, key=lambda name: -_num_characters(table, name))


def _num_characters(table: Table, column: str) -> int:
    return sum(len(str(values.get(column) or "")) for values in table.sample)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


__all__ = ["RowSpec", "choose_rows", "text_columns"]
