"""Limits that need a clock or a count: how long a body may take to come, and how many requests are open at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

from tunesmith.web import App, Message, Receive, Send

_NO_LIMIT = frozenset({"/health", "/metrics"})


class Patience:
    """An ASGI app around another one, which sees a request once its body is there.

    counted(path, status) is told of every answer.
    """

    def __init__(
        self,
        app: App,
        *,
        max_open: int,
        body_seconds: float,
        counted: Callable[[str, int], None] = lambda *_: None,
    ) -> None:
        self.app, self.max_open, self.body_seconds, self.counted = app, max_open, body_seconds, counted
        self.num_open = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        send = self._telling(scope["path"], send)
        if self.num_open >= self.max_open and scope["path"] not in _NO_LIMIT:
            await _answer(send, 503, f"{self.num_open} requests are open already. Try again later.")
            return
        self.num_open += 1
        try:
            try:
                async with asyncio.timeout(self.body_seconds):
                    messages = await _whole_body(receive)
            except TimeoutError:
                await _answer(send, 408, f"The request's body did not come within {self.body_seconds:g} seconds.")
                return
            await self.app(scope, _again(messages, receive), send)
        finally:
            self.num_open -= 1

    def _telling(self, path: str, send: Send) -> Send:
        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.counted(path, message["status"])
            await send(message)

        return told


async def _whole_body(receive: Receive) -> list[Message]:
    messages = [await receive()]
    while messages[-1]["type"] == "http.request" and messages[-1].get("more_body", False):
        messages.append(await receive())
    return messages


def _again(messages: list[Message], receive: Receive) -> Receive:
    """What was received already, and then what comes."""
    left = iter(messages)

    async def receive_again() -> Message:
        return next(left, None) or await receive()

    return receive_again


async def _answer(send: Send, status: int, message: str) -> None:
    fault = "server_error" if status >= 500 else "invalid_request_error"
    error = {"message": message, "type": fault, "param": None, "code": status}
    headers = [(b"content-type", b"application/json"), (b"retry-after", b"1"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"error": error}).encode()})
