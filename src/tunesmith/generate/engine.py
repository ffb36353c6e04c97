"""One engine for every text that is written on request: a thread that steps its lanes while there is anything to write.

`submit` may be called from any thread and gives a Ticket at once; pieces are delivered from the engine's thread. What
waits is bounded, and so is what is written at the same time: rows, and the tokens that they may come to hold together.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from tunesmith.errors import ModelError, TunesmithError
from tunesmith.generate.asking import TextEngine
from tunesmith.generate.lane import Lane
from tunesmith.generate.request import Busy, EngineClosed, Piece, Request, Ticket
from tunesmith.redact import redact

MAX_TOKENS, MAX_WAITING = 65_536, 256


class Engine(TextEngine):
    """Writes with the lanes' models."""

    def __init__(self, lanes: Sequence[Lane], *, max_tokens: int = MAX_TOKENS, max_waiting: int = MAX_WAITING) -> None:
        self._lanes = list(lanes)
        self.voices = {name: voice for lane in self._lanes for name, voice in lane.voices.items()}
        self._max_tokens, self.max_waiting = max_tokens, max_waiting
        self._waiting: deque[Ticket] = deque()
        self._changed = threading.Condition()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="tunesmith-engine", daemon=True)

    # ------------------------------------------------------------------------------------------------ what it is asked

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_rows(self) -> int:
        return sum(len(lane.rows) for lane in self._lanes)

    def submit(self, request: Request, deliver: Callable[[Piece], None]) -> Ticket:
        """As `TextEngine` says: raises ModelError for a prompt that fills the model's context."""
        ticket = Ticket(request, self.ids_of(request), deliver)
        lane = next(lane for lane in self._lanes if request.voice in lane.voices)
        if len(ticket.ids) >= lane.context_length:
            raise ModelError(
                f"a prompt of {len(ticket.ids)} tokens leaves no room in the model's context of {lane.context_length}. "
                "Shorten the prompt."
            )
        with self._changed:
            if self._is_closing:
                raise EngineClosed("the engine is closing and takes no more requests.")
            if len(self._waiting) >= self.max_waiting:
                raise Busy(f"{len(self._waiting)} requests wait already. Try again later.")
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    # ------------------------------------------------------------------------------------------------- how it goes on

    def start(self) -> Engine:
        self._thread.start()
        return self

    def close(self, *, drain: bool = False) -> None:
        with self._changed:
            self._is_closing = True
            if not drain:
                for ticket in [*self._waiting, *(row.ticket for lane in self._lanes for row in lane.rows)]:
                    ticket.deliver(Piece("", 0, error="the server is closing."))
                    ticket.cancel()
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

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
