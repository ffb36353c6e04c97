"""A conversation in a terminal: a real one, driven through a pseudo terminal, and its commands."""

from __future__ import annotations

import io
import json
import os
import re
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tunesmith.api import Writer
from tunesmith.redact import visible
from tunesmith.show.talk import talk

IN_TERMINAL = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from tunesmith.cli import main
main()
"""


def said(conversation: Any, *lines: str) -> str:
    """What is shown when these lines are typed."""
    typed, shown = iter(lines), io.StringIO()

    def ask(prompt: str) -> str:
        shown.write(prompt)
        line = next(typed, None)
        if line is None:
            raise EOFError
        return line

    talk(conversation, Console(file=shown, width=200), ask)
    return shown.getvalue()


@pytest.fixture
def chatting(chat_llama: Path) -> Iterator[Any]:
    with Writer(str(chat_llama)).decoded(6, 0.8, None, None).conversation() as conversation:
        yield conversation


@pytest.fixture
def continuing(tiny_llama: Path) -> Iterator[Any]:
    with Writer(str(tiny_llama)).decoded(6, 0.8, None, None).conversation() as conversation:
        yield conversation


def test_a_model_with_a_template_is_asked_all_that_was_said(chatting: Any) -> None:
    shown = said(chatting, "Hello", "And now?")
    assert "answers in its chat template" in shown
    messages = chatting.messages()
    assert [turn["role"] for turn in messages] == ["user", "assistant", "user", "assistant"]
    assert messages[2]["content"] == "And now?"
    answers = [turn["content"] for turn in messages if turn["role"] == "assistant"]
    assert all(visible(answer) in shown for answer in answers)
    fed = chatting.speakers.engine.voices["tuned"].tokenizer.decode(chatting._request("Third").prompt, False)
    assert fed.startswith("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n")
    assert fed.endswith("<|im_start|>user\nThird<|im_end|>\n<|im_start|>assistant\n")


def test_commands(chatting: Any, tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    shown = said(
        chatting, "/undo", "Hello", "More", "/undo", f"/save {path}", "/system Be brief.", "Hi", f"/save {path}",
        "/reset", "/save", "/help", "/nothing", "/exit", "never",
    )  # fmt: skip
    rows = [json.loads(line)["messages"] for line in path.read_text(encoding="utf-8").splitlines()]
    assert [[turn["content"] for turn in row if turn["role"] != "assistant"] for row in rows] == [
        ["Hello"],
        ["Be brief.", "Hi"],
    ]
    assert not chatting.said
    assert chatting.system == "Be brief."
    for told in ("Nothing was said yet.", "Taken back.", "name the file", "/nothing: no such command", "/undo  "):
        assert told in shown
    assert "never" not in shown


def test_a_saved_conversation_is_data(chatting: Any, tmp_path: Path, prepared: Any, chat_tokenizer: Any) -> None:
    path = tmp_path / "talk.jsonl"
    said(chatting, "Hello", f"/save {path}", "/reset", "Bye", f"/save {path}")
    data = prepared(path, messages="messages", eval_fraction=0, with_tokenizer=chat_tokenizer, max_bad_rows=1.0)
    assert data.account.rows_read == 2


def test_a_base_model_completes_and_says_so(continuing: Any) -> None:
    shown = said(continuing, "A boy", "", "Another")
    assert "it continues what you type" in shown
    first, second = continuing.said
    assert (first.asked, second.asked) == ("A boy", "Another")
    assert continuing._request("").prompt == "Another" + second.answer
    assert len(continuing.speakers.engine.voices["tuned"].tokenizer.encode_batch([first.answer])[0]) > 6


def test_base_and_tuned_by_turns(lora_run: Path) -> None:
    with Writer(str(lora_run)).decoded(6, 0, None, None).conversation() as conversation:
        shown = said(conversation, "A boy", "/base", "A boy", "/base")
        assert [one.voice for one in conversation.said] == ["tuned", "base"]
        assert [request.voice for request in (conversation._request("A boy"),)] == ["tuned"]
        assert re.findall(r"(\w+)> ", shown) == ["tuned", "tuned", "base", "base", "tuned"]


def test_what_the_user_can_fix_is_said_and_the_talk_goes_on(chatting: Any, tmp_path: Path) -> None:
    shown = said(chatting, "/base", f"/save {tmp_path}", "word " * 600, "Hello")
    assert "one model alone" in shown
    assert "leaves no room in the model's context" in shown
    assert [one.asked for one in chatting.said] == ["Hello"]


def test_in_a_pseudo_terminal(chat_llama: Path) -> None:
    pty = pytest.importorskip("pty", reason="no pseudo terminals here")
    ours, theirs = pty.openpty()
    arguments = ["-q", "chat", str(chat_llama), "--max-new-tokens", "400"]
    command = [sys.executable, "-c", IN_TERMINAL, *arguments]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    shown = ""

    def until(text: str) -> None:
        nonlocal shown
        while not re.search(text, shown):
            ready, _, _ = select.select([ours], [], [], 120)
            assert ready, shown
            shown += os.read(ours, 65536).decode(errors="replace")

    until("model> ")
    os.write(ours, b"Hello\n")
    until("Hello\r?\n.+")
    os.write(ours, b"\x03")  # Ctrl-C ends the answer alone, if that still goes on
    until("(?s)Hello.*model> ")
    os.write(ours, b"/exit\n")
    assert process.wait(120) == 0
    os.close(ours)
