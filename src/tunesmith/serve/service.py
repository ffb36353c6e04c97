"""What all requests share: the models by their names, how texts are written where a request does not say, limits."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace
from pathlib import Path

from tunesmith.errors import TunesmithError
from tunesmith.generate.request import Request
from tunesmith.generate.text import Decoding
from tunesmith.generate.voices import BASE, TUNED, Speakers
from tunesmith.recipe import CompareSection
from tunesmith.run.directory import RunDir
from tunesmith.serve.metrics import Metrics

_COUNTED = frozenset({"/", "/health", "/metrics", "/v1/models", "/v1/completions", "/v1/chat/completions"})


class UnknownModel(TunesmithError):
    """A request names a model that is not served here."""


@dataclass(frozen=True)
class Limits:
    """What one request, and all together, may take."""

    max_new_tokens: int = 4096
    """Of one text."""
    max_texts: int = 32
    """Of one request: prompts times n."""
    max_waiting: int = 64
    """Texts that wait while all rows are taken: 429 beyond."""
    max_open: int = 128
    """Requests that are being answered: 503 beyond."""
    body_seconds: float = 20.0
    """For a request's body to come: 408."""
    answer_seconds: float = 600.0
    """For an answer: 408, or an error that ends a stream."""
    drain_seconds: int = 30
    """For what is being answered when the server is told to stop."""


@dataclass(frozen=True)
class Service:
    """A server's models and rules. `run_dir` is None where a model is served that is no run."""

    name: str
    speakers: Speakers
    run_dir: RunDir | None = None
    limits: Limits = field(default_factory=Limits)
    defaults: CompareSection = field(default_factory=CompareSection)
    metrics: Metrics = field(default_factory=Metrics)

    @property
    def names(self) -> dict[str, str]:
        """The voice of each name that a request may give, in the order of /v1/models."""
        voices = list(self.speakers.chats)
        names = {voice: voice for voice in voices}
        if self.run_dir is None and len(voices) == 1:
            names = {self.speakers.own_name: voices[0], **names}
        return names

    def count(self, path: str, status: int) -> None:
        """Count an answer; what is asked for by guessing counts as one."""
        known = path if path in _COUNTED else "other"
        self.metrics.requests.labels(known, str(status)).inc()

    def voice(self, model: str) -> str:
        """Raises UnknownModel that lists the names that are served."""
        names = self.names
        if model not in names:
            raise UnknownModel(f"The model {model[:80]!r} is not served here. Expected {' or '.join(names)}.")
        return names[model]

    def decoding(self, max_tokens: int | None, temperature: float | None, top_p: float | None) -> Decoding:
        """As asked; where a request does not say, as the run is compared."""
        asked, most = self.defaults, self.limits.max_new_tokens
        number = min(asked.max_new_tokens, most) if max_tokens is None else max_tokens
        if number > most:
            raise TunesmithError(f"max_tokens: found {number}. Expected at most {most}.")
        return Decoding(
            number,
            asked.temperature if temperature is None else temperature,
            asked.top_p if top_p is None else top_p,
        )

    def seed(self, asked: int | None) -> int:
        """As asked, or another one each time."""
        return secrets.randbits(32) if asked is None else asked

    def requests(self, prompts: list[tuple[str | tuple[int, ...], int]], request: Request) -> list[Request]:
        """`request` for each (prompt, occurrence)."""
        if len(prompts) > self.limits.max_texts:
            raise TunesmithError(f"{len(prompts)} texts in one request. Expected at most {self.limits.max_texts}.")
        return [replace(request, prompt=prompt, occurrence=occurrence) for prompt, occurrence in prompts]


def is_pair(service: Service) -> bool:
    """Whether both a tuned model and its base are served."""
    return {TUNED, BASE} <= set(service.speakers.chats)


def run_of(name: str) -> RunDir | None:
    """The run at `name`, where there is one."""
    path = Path(name).expanduser()
    return RunDir.open(path) if RunDir.is_run(path) else None
