"""How texts are asked for, whatever engine writes them: one piece by piece, or many at the same time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from tunesmith.errors import ModelError
from tunesmith.generate.request import Piece, Request, Ticket, Voice
from tunesmith.generate.text import Generation

MAX_AHEAD = 64
"""Texts that are asked for before the first of them is taken."""


class TextEngine(ABC):
    """Writes until it is closed. Use it in `with`, or call `start` and `close`."""

    voices: dict[str, Voice]
    """The names under which it writes."""
    max_waiting: int

    @property
    @abstractmethod
    def num_waiting(self) -> int:
        """Texts that wait for a row."""

    @property
    @abstractmethod
    def num_rows(self) -> int:
        """Texts that are being written."""

    @abstractmethod
    def submit(self, request: Request, deliver: Callable[[Piece], None]) -> Ticket:
        """Have a text written; `deliver` gets its pieces, in a thread of the engine.

        Raises ModelError for a prompt that the model cannot read, Busy where too many wait, EngineClosed.
        """

    @abstractmethod
    def start(self) -> Self:
        """Begin to write."""

    @abstractmethod
    def close(self, *, drain: bool = False) -> None:
        """Take no more requests, and stop; `drain`: after what was taken is written."""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def voice(self, name: str) -> Voice:
        """Raises ModelError that lists the voices there are."""
        if name not in self.voices:
            raise ModelError(f"model {name!r}: not loaded here. Expected {' or '.join(self.voices)}.")
        return self.voices[name]

    def ids_of(self, request: Request) -> list[int]:
        """What the model is fed for a request. Raises ModelError for an id that it has not."""
        tokenizer = self.voice(request.voice).tokenizer
        if isinstance(request.prompt, str):
            return [tokenizer.start_id, *tokenizer.encode_batch([request.prompt])[0]]
        largest, rows = max(request.prompt, default=0), tokenizer.num_rows
        if largest >= (rows if rows is not None else len(tokenizer.backend)):
            raise ModelError(f"a prompt holds the token {largest}; the model has {rows}.")
        return list(request.prompt) or [tokenizer.start_id]

    def stream(self, request: Request) -> Generator[Piece, None, None]:
        """The pieces of one text, submitted with the first `next`. Closing the iterator cancels the request.

        Raises ModelError where the model fails, and as `submit` does.
        """
        pieces: SimpleQueue[Piece] = SimpleQueue()
        ticket = self.submit(request, pieces.put)
        try:
            yield from _until_last(pieces)
        finally:
            ticket.cancel()

    def write(self, requests: Iterable[Request]) -> list[Generation]:
        """The texts of all requests, in their order. Raises as `stream` does."""
        return [self._whole(ticket, pieces) for ticket, pieces in self.stream_each(requests)]

    def write_each(self, requests: Iterable[Request]) -> Iterator[Generation]:
        """The text of each request as soon as it and all before it are written; many are written at the same time."""
        for ticket, pieces in self.stream_each(requests):
            yield self._whole(ticket, pieces)

    def stream_each(self, requests: Iterable[Request]) -> Iterator[tuple[Ticket, Iterator[Piece]]]:
        """The pieces of each text, in the order of the requests, which are written at the same time."""
        going: deque[tuple[Ticket, SimpleQueue[Piece]]] = deque()
        try:
            for request in requests:
                pieces: SimpleQueue[Piece] = SimpleQueue()
                going.append((self.submit(request, pieces.put), pieces))
                if len(going) >= min(self.max_waiting, MAX_AHEAD):
                    yield going[0][0], _until_last(going[0][1])
                    going.popleft()
            while going:
                yield going[0][0], _until_last(going[0][1])
                going.popleft()
        finally:
            for ticket, _ in going:
                ticket.cancel()

    def _whole(self, ticket: Ticket, pieces: Iterator[Piece]) -> Generation:
        found, request = list(pieces), ticket.request
        tokenizer = self.voices[request.voice].tokenizer
        prompt = request.prompt if isinstance(request.prompt, str) else tokenizer.decode(ticket.ids)
        text = "".join(piece.text for piece in found)
        return Generation(prompt, text, found[-1].num_tokens, found[-1].finish == "stop")


def _until_last(pieces: SimpleQueue[Piece]) -> Iterator[Piece]:
    while True:
        piece = pieces.get()
        if piece.error is not None:
            raise ModelError(piece.error)
        yield piece
        if piece.is_last:
            return
