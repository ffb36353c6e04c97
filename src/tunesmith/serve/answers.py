"""Texts of an engine as answers: whole, or streamed as they are written. Whoever leaves frees the rows that write."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request as HttpRequest
from fastapi.sse import KEEPALIVE_COMMENT

from tunesmith.errors import TunesmithError
from tunesmith.generate.request import Piece, Request, Ticket, TokenScore
from tunesmith.serve import schema
from tunesmith.serve.service import Service

PING_SECONDS = 10.0
DONE = b"data: [DONE]\n\n"


class TooSlow(TunesmithError):
    """The answer did not come in time."""


class Gone(Exception):
    """Whoever asked has left."""


class Broken(TunesmithError):
    """The engine failed."""


@dataclass
class _Text:
    ticket: Ticket
    text: str = ""
    scores: list[TokenScore] = field(default_factory=list)
    finish: str | None = None
    num_tokens: int = 0

    def add(self, piece: Piece) -> None:
        self.text += piece.text
        self.scores += piece.scores
        self.finish, self.num_tokens = piece.finish, piece.num_tokens


class Texts:
    """The texts of one HTTP request while they are written."""

    def __init__(self, service: Service, requests: Iterable[Request]) -> None:
        self.service = service
        self._pieces: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._begun = time.monotonic()
        self._is_first = True
        self.texts: list[_Text] = []
        try:
            for number, request in enumerate(requests):
                self.texts.append(_Text(service.speakers.engine.submit(request, self._deliverer(number))))
        except BaseException:
            self.cancel()
            raise

    def _deliverer(self, number: int) -> Any:
        def deliver(piece: Piece) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody listens
                self._loop.call_soon_threadsafe(self._pieces.put_nowait, (number, piece))

        return deliver

    def cancel(self) -> None:
        for text in self.texts:
            text.ticket.cancel()

    async def pieces(self) -> AsyncIterator[tuple[int, Piece] | None]:
        """(number of the text, piece) as they come; None now and then while none comes. Raises TooSlow or Broken."""
        limit = self.service.limits.answer_seconds
        left = len(self.texts)
        try:
            while left:
                if time.monotonic() - self._begun > limit:
                    raise TooSlow(f"The answer did not come within {limit:g} seconds.")
                try:
                    number, piece = await asyncio.wait_for(self._pieces.get(), min(PING_SECONDS, limit))
                except TimeoutError:
                    yield None
                    continue
                if piece.error is not None:
                    raise Broken(piece.error)
                self._count(number, piece)
                self.texts[number].add(piece)
                left -= piece.is_last
                yield number, piece
        finally:
            self.cancel()

    def _count(self, number: int, piece: Piece) -> None:
        metrics, ticket = self.service.metrics, self.texts[number].ticket
        if self._is_first:
            self._is_first = False
            metrics.first_token.observe(time.monotonic() - self._begun)
        if piece.is_last:
            voice = ticket.request.voice
            metrics.tokens.labels(voice, "prompt").inc(len(ticket.ids))
            metrics.tokens.labels(voice, "reused").inc(ticket.num_reused)
            metrics.tokens.labels(voice, "written").inc(piece.num_tokens)
            metrics.answers.observe(time.monotonic() - self._begun)

    async def all(self, http: HttpRequest) -> list[_Text]:
        """Every text, whole. Raises Gone where whoever asked leaves before."""
        whole, gone = asyncio.ensure_future(self._whole()), asyncio.ensure_future(_until_gone(http))
        try:
            await asyncio.wait([whole, gone], return_when=asyncio.FIRST_COMPLETED)
            if not whole.done():
                raise Gone
            whole.result()
            return self.texts
        finally:
            self.cancel()
            whole.cancel()
            gone.cancel()

    async def _whole(self) -> None:
        async for _ in self.pieces():
            pass

    def usage(self) -> schema.Usage:
        """Tokens read and written; a prompt that several texts share counts once."""
        prompts = {text.ticket.request.prompt: text.ticket for text in self.texts}
        return schema.Usage.of(
            sum(len(ticket.ids) for ticket in prompts.values()),
            sum(text.num_tokens for text in self.texts),
            sum(ticket.num_reused for ticket in prompts.values()),
        )


async def _until_gone(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


def whole_answer(texts: Texts, envelope: schema.Envelope, *, chat: bool) -> dict[str, Any]:
    """All texts as one answer."""
    choices = []
    for number, text in enumerate(texts.texts):
        asked = text.ticket.request.top_logprobs is not None
        choice: dict[str, Any] = {"index": number, "finish_reason": text.finish, "logprobs": None}
        if chat:
            choice["message"] = {"role": "assistant", "content": text.text, "refusal": None}
            choice["logprobs"] = schema.chat_logprobs(tuple(text.scores)) if asked else None
        else:
            choice["text"] = text.text
            choice["logprobs"] = schema.completion_logprobs(tuple(text.scores), 0) if asked else None
        choices.append(choice)
    return envelope.around(choices, texts.usage())


async def streamed_answer(texts: Texts, envelope: schema.Envelope, *, chat: bool, usage: bool) -> AsyncIterator[bytes]:
    """Server-sent events: a chunk a piece, then the usage where that is asked for, then [DONE]."""
    offsets = [0] * len(texts.texts)
    pieces = texts.pieces()
    try:
        for number in range(len(offsets)) if chat else ():
            first = {"role": "assistant", "content": "", "refusal": None}
            yield schema.sse(envelope.around([_chunk(number, {"delta": first})]))
        async for found in pieces:
            if found is None:
                yield KEEPALIVE_COMMENT
                continue
            number, piece = found
            yield schema.sse(envelope.around([_piece_chunk(number, piece, offsets[number], chat=chat)]))
            offsets[number] += sum(len(score.text) for score in piece.scores)
        if usage:
            yield schema.sse(envelope.around([], texts.usage()))
        yield DONE
    except (TooSlow, Broken) as error:
        yield schema.sse(schema.error_body(str(error), "server_error", None))
    finally:
        await pieces.aclose()  # type: ignore[attr-defined]
        texts.cancel()


def _piece_chunk(number: int, piece: Piece, offset: int, *, chat: bool) -> dict[str, Any]:
    if chat:
        logprobs = schema.chat_logprobs(piece.scores) if piece.scores else None
        delta = {"content": piece.text} if piece.text or not piece.finish else {}
        return _chunk(number, {"delta": delta}, piece.finish, logprobs)
    logprobs = schema.completion_logprobs(piece.scores, offset) if piece.scores else None
    return _chunk(number, {"text": piece.text}, piece.finish, logprobs)


def _chunk(
    number: int, content: dict[str, Any], finish: str | None = None, logprobs: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {"index": number, **content, "finish_reason": finish, "logprobs": logprobs}
