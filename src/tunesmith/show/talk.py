"""A conversation in a terminal: lines that are typed, answers as they are written, commands that begin with a slash."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.errors import TunesmithError
from tunesmith.redact import visible

if TYPE_CHECKING:
    from rich.console import Console

    from tunesmith.generate.conversation import Conversation

HELP = """\
/reset        forget what was said
/undo         take the last question and its answer back
/system TEXT  what the model is told before all else; begins anew
/base         talk with the base instead of the tuned model, and back
/save FILE    append the conversation to FILE as a chat row
/help         this list
/exit         leave, as Ctrl-D does; Ctrl-C ends an answer"""


def talk(conversation: Conversation, console: Console, ask: Callable[[str], str] = input) -> None:
    """Until /exit or the end of the input. What the user can fix is said, and the talk goes on."""
    _say(console, _opening(conversation))
    with _interruptible():
        while True:
            try:
                line = ask(f"{conversation.name}> ")
            except (EOFError, KeyboardInterrupt):
                _say(console, "")
                return
            if line.strip() in ("/exit", "/quit"):
                return
            try:
                if line.startswith("/"):
                    _say(console, _command(conversation, line))
                elif line.strip() or conversation.only_continues:
                    _answer(conversation, line, console)
            except (TunesmithError, OSError) as error:
                _say(console, f"{error}")


def _opening(conversation: Conversation) -> str:
    return f"{_who(conversation)} /help lists commands."


def _who(conversation: Conversation) -> str:
    if conversation.only_continues:
        return (
            f"{conversation.name} has no chat template: it continues what you type, and does not answer. "
            "An empty line has it write on."
        )
    return f"{conversation.name} answers in its chat template."


def _command(conversation: Conversation, line: str) -> str:
    name, _, value = line.partition(" ")
    value = value.strip()
    if name == "/reset":
        conversation.reset()
        return "Nothing was said."
    if name == "/undo":
        return "Taken back." if conversation.undo() else "Nothing was said yet."
    if name == "/system":
        conversation.system = value or None
        conversation.reset()
        return f"The model is told: {value}" if value else "The model is told nothing before all else."
    if name == "/base":
        conversation.switch()
        return _who(conversation)
    if name == "/save":
        if not value:
            return "/save FILE: name the file."
        conversation.save(Path(value).expanduser())
        return f"Appended to {value}."
    return HELP if name == "/help" else f"{name}: no such command.\n{HELP}"


def _answer(conversation: Conversation, line: str, console: Console) -> None:
    pieces = conversation.answer(line)
    finish = None
    try:
        for piece in pieces:
            console.out(visible(piece.text), end="", highlight=False)
            console.file.flush()
            finish = piece.finish
    except KeyboardInterrupt:
        finish = None
    finally:
        with contextlib.suppress(KeyboardInterrupt):
            pieces.close()
    console.out({"length": " [the limit of new tokens]", None: " [interrupted]"}.get(finish, ""), highlight=False)


def _say(console: Console, text: str) -> None:
    console.print(visible(text), markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C ends an answer and not the program."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
