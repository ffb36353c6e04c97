"""Tokens to text as they come: whole characters only, and nothing of what may become a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.generate.text import CONTEXT_TOKENS
from tunesmith.models.tokenizer import TextTokenizer

MAX_PENDING_TOKENS = 16
"""Tokens without a whole character after which what there is is shown: bytes that will never be text."""


class Spelling:
    """The text of one continuation, released piece by piece. `stopped`: a stop string came, and ended the text."""

    def __init__(self, tokenizer: TextTokenizer, prompt_ids: Sequence[int], stop: Sequence[str] = ()) -> None:
        self.stopped = False
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self._context, self._pending, self._held = list(prompt_ids[-CONTEXT_TOKENS:]), list[int](), ""

    def add(self, token: int) -> str:
        """What can be shown now that `token` was written."""
        self._pending.append(token)
        text = self._spelt()
        if text.endswith("\ufffd") and len(self._pending) < MAX_PENDING_TOKENS:
            return ""
        self._context = [*self._context, *self._pending][-CONTEXT_TOKENS:]
        self._pending = []
        return self._released(text)

    def finish(self) -> str:
        """The rest, at the end of the text."""
        text = self._held + (self._spelt() if self._pending else "")
        self._held, self._pending = "", []
        return self._cut(text)

    def _spelt(self) -> str:
        before = self._tokenizer.decode(self._context)
        whole = self._tokenizer.decode([*self._context, *self._pending])
        return whole[len(before) :] if whole.startswith(before) else self._tokenizer.decode(self._pending)

    def _released(self, text: str) -> str:
        text = self._cut(self._held + text)
        kept = 0 if self.stopped else max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def _cut(self, text: str) -> str:
        places = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        if self.stopped or not places:
            return "" if self.stopped else text
        self.stopped = True
        return text[: min(places)]


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` that `stop` begins with."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-n:])), 0)
