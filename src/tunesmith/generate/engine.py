"""One engine for every text that is written on request: a thread that steps its lanes while there is anything to write.

`submit` may be called from any thread and gives a Ticket at once; pieces are delivered from the engine's thread. What
waits is bounded, and so is what is written at the same time: rows, and the tokens that they may come to hold together.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from queue import SimpleQueue
from types import TracebackType

from tunesmith.errors import ModelError, TunesmithError
from tunesmith.generate.lane import Lane, Voice
from tunesmith.generate.request import Busy, EngineClosed, Piece, Request, Ticket
from tunesmith.generate.text import Generation
from tunesmith.redact import redact

MAX_TOKENS, MAX_WAITING = 65_536, 256


class Engine:
    """Writes with the lanes' models until it is closed. Use it in `with`, or call `start` and `close`."""

    def __init__(self, lanes: Sequence[Lane], *, max_tokens: int = MAX_TOKENS, max_waiting: int = MAX_WAITING) -> None:
        self._lanes = list(lanes)
        self._max_tokens, self._max_waiting = max_tokens, max_waiting
        self._waiting: deque[Ticket] = deque()
        self._changed = threading.Condition()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="tunesmith-engine", daemon=True)

    # ------------------------------------------------------------------------------------------------ what it is asked

    @property
    def voices(self) -> dict[str, Voice]:
        """The names under which it writes."""
        return {name: voice for lane in self._lanes for name, voice in lane.voices.items()}

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_rows(self) -> int:
        return sum(len(lane.rows) for lane in self._lanes)

    def context_length(self, voice: str) -> int:
        """Most tokens of prompt and text together."""
        return self._lane(voice).context_length

    def submit(self, request: Request, deliver: Callable[[Piece], None]) -> Ticket:
        """Have a text written; `deliver` gets its pieces, in the engine's thread.

        Raises ModelError for a prompt that fills the model's context, Busy where too many wait, EngineClosed.
        """
        lane = self._lane(request.voice)
        ticket = Ticket(request, self.ids_of(request), deliver)
        if len(ticket.ids) >= lane.context_length:
            raise ModelError(
                f"a prompt of {len(ticket.ids)} tokens leaves no room in the model's context of {lane.context_length}. "
                "Shorten the prompt."
            )
        with self._changed:
            if self._is_closing:
                raise EngineClosed("the engine is closing and takes no more requests.")
            if len(self._waiting) >= self._max_waiting:
                raise Busy(f"{len(self._waiting)} requests wait already. Try again later.")
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    def ids_of(self, request: Request) -> list[int]:
        """What the model is fed for a request."""
        tokenizer = self._lane(request.voice).voices[request.voice].tokenizer
        if isinstance(request.prompt, str):
            return [tokenizer.start_id, *tokenizer.encode_batch([request.prompt])[0]]
        return list(request.prompt) or [tokenizer.start_id]

    def stream(self, request: Request) -> Iterator[Piece]:
        """The pieces of one text, submitted with the first `next`. Closing the iterator cancels the request.

        Raises ModelError where the model fails, and as `submit` does.
        """
        pieces: SimpleQueue[Piece] = SimpleQueue()
        ticket = self.submit(request, pieces.put)
        try:
            while True:
                piece = pieces.get()
                if piece.error is not None:
                    raise ModelError(piece.error)
                yield piece
                if piece.is_last:
                    return
        finally:
            ticket.cancel()

    def write(self, requests: Sequence[Request]) -> list[Generation]:
        """The texts of all requests, in their order. Raises as `stream` does."""
        return list(self.write_each(requests))

    def write_each(self, requests: Iterable[Request]) -> Iterator[Generation]:
        """The text of each request as soon as it and all before it are written; many are written at the same time."""
        going: deque[tuple[Request, Ticket, SimpleQueue[Piece]]] = deque()
        try:
            for request in requests:
                pieces: SimpleQueue[Piece] = SimpleQueue()
                going.append((request, self.submit(request, pieces.put), pieces))
                if len(going) >= self._max_waiting:
                    yield self._whole(*going[0])
                    going.popleft()
            while going:
                yield self._whole(*going[0])
                going.popleft()
        finally:
            for _, ticket, _ in going:
                ticket.cancel()

    def _whole(self, request: Request, ticket: Ticket, pieces: SimpleQueue[Piece]) -> Generation:
        found = [pieces.get()]
        while not found[-1].is_last:
            found.append(pieces.get())
        if found[-1].error is not None:
            raise ModelError(found[-1].error)
        tokenizer = self.voices[request.voice].tokenizer
        prompt = request.prompt if isinstance(request.prompt, str) else tokenizer.decode(ticket.ids)
        text = "".join(piece.text for piece in found)
        return Generation(prompt, text, found[-1].num_tokens, found[-1].finish == "stop")

    def _lane(self, voice: str) -> Lane:
        for lane in self._lanes:
            if voice in lane.voices:
                return lane
        raise ModelError(f"model {voice!r}: not loaded here. Expected {' or '.join(self.voices)}.")

    # ------------------------------------------------------------------------------------------------- how it goes on

    def start(self) -> Engine:
        self._thread.start()
        return self

    def close(self, *, drain: bool = False) -> None:
        """Take no more requests, and stop; `drain`: after what was taken is written."""
        with self._changed:
            self._is_closing = True
            if not drain:
                for ticket in [*self._waiting, *(row.ticket for lane in self._lanes for row in lane.rows)]:
                    ticket.deliver(Piece("", 0, error="the server is closing."))
                    ticket.cancel()
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def __enter__(self) -> Engine:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        while self._wait():
            for lane in self._lanes:
                lane.drop_cancelled()
                try:
                    self._admit(lane)
                    if lane.rows:
                        lane.step()
                except Exception as error:  # a model is a program of others: what it raises ends its texts alone
                    self._fail(lane, [row.ticket for row in lane.rows], error)

    def _wait(self) -> bool:
        """Until there is something to write; False at the end."""
        with self._changed:
            while not self._waiting and not self.num_rows:
                if self._is_closing:
                    return False
                self._changed.wait()
        return True

    def _admit(self, lane: Lane) -> None:
        taken = self._take(lane)
        if not taken:
            return
        try:
            lane.admit(taken)
        except Exception as error:
            self._fail(lane, [*taken, *(row.ticket for row in lane.rows)], error)

    def _take(self, lane: Lane) -> list[Ticket]:
        """Those that wait for this lane and fit beside its rows, first come first; one alone always fits."""
        taken: list[Ticket] = []
        longest = max((len(row.ticket.ids) + row.max_new_tokens for row in lane.rows), default=0)
        with self._changed:
            for ticket in list(self._waiting):
                if ticket.is_cancelled:
                    self._waiting.remove(ticket)
                    continue
                if ticket.request.voice not in lane.voices:
                    continue
                length = len(ticket.ids) + ticket.request.decoding.max_new_tokens
                longest = max(longest, min(length, lane.context_length))
                rows = len(lane.rows) + len(taken) + 1
                if rows > 1 and (rows > lane.max_rows or rows * longest > self._max_tokens):
                    break
                self._waiting.remove(ticket)
                taken.append(ticket)
        return taken

    def _fail(self, lane: Lane, tickets: Sequence[Ticket], error: Exception) -> None:
        message = str(error) if isinstance(error, TunesmithError) else f"{type(error).__name__}: {error}"
        for ticket in tickets:
            ticket.deliver(Piece("", 0, error=redact(message)))
            ticket.cancel()
        lane.clear()
