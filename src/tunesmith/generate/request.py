"""What an engine is asked, and what it gives back while it writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tunesmith.errors import TunesmithError
from tunesmith.generate.text import Decoding
from tunesmith.models.tokenizer import TextTokenizer

MAX_TOP_LOGPROBS = 20
MAX_STOPS, MAX_STOP_CHARACTERS = 4, 200
Finish = Literal["stop", "length"]


class EngineClosed(TunesmithError):
    """The engine takes no more requests."""


class Busy(TunesmithError):
    """Too many requests wait already."""


@dataclass(frozen=True)
class Voice:
    """A name under which a lane writes: how text is read and spelt, and which adapter changes its rows."""

    name: str
    tokenizer: TextTokenizer
    adapter: str | None = None
    """Of the lane's peft model; None where the lane's model has no adapters."""


@dataclass(frozen=True)
class Request:
    """One text to write. A prompt of ids is fed as it is, start token included; a text as [start] text.

    The random stream is made from seed, prompt and `occurrence`: several texts for one prompt differ by the latter.
    """

    prompt: str | tuple[int, ...]
    decoding: Decoding
    seed: int
    voice: str = "tuned"
    """Which of the engine's models writes."""
    occurrence: int = 0
    stop: tuple[str, ...] = ()
    """The text ends before the first of these."""
    top_logprobs: int | None = None
    """So many of the likeliest tokens are told with each token that is written; None: no probabilities."""

    def __post_init__(self) -> None:
        if len(self.stop) > MAX_STOPS or any(not 0 < len(stop) <= MAX_STOP_CHARACTERS for stop in self.stop):
            raise TunesmithError(
                f"stop: found {len(self.stop)} strings of {[len(stop) for stop in self.stop]} characters. Expected at "
                f"most {MAX_STOPS}, each of 1 to {MAX_STOP_CHARACTERS} characters."
            )
        if self.top_logprobs is not None and not 0 <= self.top_logprobs <= MAX_TOP_LOGPROBS:
            raise TunesmithError(f"top logprobs: found {self.top_logprobs}. Expected 0 to {MAX_TOP_LOGPROBS}.")


@dataclass(frozen=True)
class TokenScore:
    """A token as the vocabulary spells it and its log-probability in nats, before temperature and top_p."""

    text: str
    logprob: float
    top: tuple[TokenScore, ...] = ()
    """The likeliest tokens at this place."""


@dataclass(frozen=True)
class Piece:
    """What a step added to a text. The last piece of a text has a `finish` or an `error`."""

    text: str
    num_tokens: int
    """Written so far."""
    scores: tuple[TokenScore, ...] = ()
    finish: Finish | None = None
    """stop: the model wrote an end token, or a stop string came; length: the limit or the model's context was met."""
    error: str | None = None

    @property
    def is_last(self) -> bool:
        return self.finish is not None or self.error is not None


class Ticket:
    """A request on its way. `cancel` lets go of it: its row is free at the next step, and nothing more is delivered."""

    def __init__(self, request: Request, ids: list[int], deliver: Callable[[Piece], None]) -> None:
        self.request, self.ids = request, ids
        """`ids`: what the model is fed."""
        self.is_cancelled = False
        self.num_reused = 0
        """Tokens of the prompt that were not read again, since an earlier text began with them."""
        self._deliver = deliver

    def cancel(self) -> None:
        self.is_cancelled = True

    def deliver(self, piece: Piece) -> None:
        if not self.is_cancelled:
            self._deliver(piece)
