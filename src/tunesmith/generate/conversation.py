"""A talk with a model, without a terminal: what was said, and what the model is given to answer it."""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from pathlib import Path

from tunesmith.data.rows.turns import Turn
from tunesmith.data.tokens.encode import chat_prompt
from tunesmith.disk import open_private
from tunesmith.errors import TunesmithError
from tunesmith.generate.request import Piece, Request
from tunesmith.generate.text import Decoding
from tunesmith.generate.voices import TUNED, Speakers


@dataclass(frozen=True)
class Said:
    """One thing that was said and its answer, which is cut where it was interrupted."""

    asked: str
    answer: str
    voice: str


@dataclass
class Conversation:
    """Turns with one of an engine's models, asked in its chat template.

    A model without a template continues text instead: what is said begins a new text, and saying nothing has it write
    on.
    """

    speakers: Speakers
    decoding: Decoding
    seed: int
    voice: str = TUNED
    system: str | None = None
    said: list[Said] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What the model is called: tuned or base, or its own name where it is alone."""
        return self.voice if len(self.speakers.chats) > 1 else self.speakers.own_name

    @property
    def only_continues(self) -> bool:
        """Whether the model has no chat template and so answers nothing, but writes on."""
        return self.speakers.chats[self.voice] is None

    def switch(self) -> str:
        """Talk with the other model, tuned or base, from here on. Raises TunesmithError where there is one alone."""
        others = [name for name in self.speakers.chats if name != self.voice]
        if not others:
            raise TunesmithError("there is one model alone here: it was not tuned from another one that is known.")
        self.voice = others[0]
        return self.voice

    def say(self, text: str) -> str:
        """The model's whole answer to `text`."""
        return "".join(piece.text for piece in self.answer(text))

    def answer(self, text: str) -> Generator[Piece, None, None]:
        """What the model says to `text`, piece by piece; kept as said, as far as it came, when the iterator ends."""
        request = self._request(text)
        pieces = self.speakers.engine.stream(request)
        parts: list[str] = []
        try:
            for piece in pieces:
                parts.append(piece.text)
                yield piece
        finally:
            pieces.close()
            if parts:
                self._keep(text, "".join(parts))

    def _keep(self, text: str, answer: str) -> None:
        if self.only_continues and not text and self.said:
            self.said[-1] = replace(self.said[-1], answer=self.said[-1].answer + answer)
        else:
            self.said.append(Said(text, answer, self.voice))

    def _request(self, text: str) -> Request:
        chat = self.speakers.chats[self.voice]
        prompt: str | tuple[int, ...]
        if chat is None:
            last = self.said[-1] if self.said and not text else None
            prompt = last.asked + last.answer if last else text
        else:
            turns = [Turn(message) for message in [*self.messages(), {"role": "user", "content": text}]]
            prompt = tuple(chat_prompt(chat, turns))
        return Request(prompt, self.decoding, self.seed, self.voice, len(self.said))

    def messages(self) -> list[dict[str, str]]:
        """All that was said, as chat rows have it."""
        turns = [{"role": "system", "content": self.system}] if self.system else []
        for one in self.said:
            turns += [{"role": "user", "content": one.asked}, {"role": "assistant", "content": one.answer}]
        return turns

    def undo(self) -> bool:
        """Take the last thing said and its answer back. False where nothing was said."""
        return bool(self.said) and bool(self.said.pop())

    def reset(self) -> None:
        """Forget what was said; the system turn stays."""
        self.said.clear()

    def save(self, path: Path) -> None:
        """Append the conversation to a file of chat rows: a JSON line that `data.messages: messages` reads."""
        row = {"messages": self.messages()}
        with open_private(path, os.O_APPEND) as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
