"""A run that was tuned on conversations is asked as it learned: in its template, on the day that it began."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.data.rows.chat import ChatTemplate
from tunesmith.data.rows.turns import Turn
from tunesmith.data.tokens.encode import chat_prompt
from tunesmith.run.artefacts import DataAccount
from tunesmith.run.directory import RunDir

if TYPE_CHECKING:
    from tunesmith.models.tokenizer import TextTokenizer


def begun_on(run_dir: RunDir) -> datetime.date | None:
    """The day that a run's template writes; None where it writes none."""
    account = run_dir.find(DataAccount)
    date = account.chat.date if account is not None and account.chat is not None else None
    return datetime.date.fromisoformat(date) if date else None


def day_of(name: str) -> datetime.date | None:
    """The day that RUN_OR_MODEL learned to read in its template; None for what is no run, or writes no date."""
    path = Path(name).expanduser()
    return begun_on(RunDir.open(path)) if RunDir.is_run(path) else None


def chat_of(run_dir: RunDir, tokenizer: TextTokenizer) -> ChatTemplate | None:
    """The template that a run tuned on conversations is asked in; None for a run of another kind."""
    account = run_dir.find(DataAccount)
    is_chat = account is not None and account.kind == "chat"
    return ChatTemplate.of(tokenizer, begun_on(run_dir)) if is_chat else None


def asked_prompts(name: str, tokenizer: TextTokenizer, prompts: Sequence[str]) -> list[str | list[int]]:
    """Prompts as RUN_OR_MODEL is fed them: the ids of a user's turn for a chat run, else the texts; "" stays."""
    path = Path(name).expanduser()
    chat = chat_of(RunDir.open(path), tokenizer) if RunDir.is_run(path) else None
    if chat is None:
        return list(prompts)
    return [chat_prompt(chat, [Turn({"role": "user", "content": text})]) if text else "" for text in prompts]
