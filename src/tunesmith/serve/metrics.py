"""Counts for Prometheus: requests, tokens, times, and what is going on."""

from __future__ import annotations

from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from tunesmith.generate.asking import TextEngine

SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)


def _registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry


@dataclass(frozen=True)
class Metrics:
    """What /metrics tells. Every server has counts of its own."""

    registry: CollectorRegistry = field(default_factory=_registry)
    requests: Counter = field(init=False)
    tokens: Counter = field(init=False)
    first_token: Histogram = field(init=False)
    answers: Histogram = field(init=False)

    def __post_init__(self) -> None:
        made = {
            "requests": Counter("tunesmith_requests", "Answers.", ["path", "status"], registry=self.registry),
            "tokens": Counter(
                "tunesmith_tokens", "Tokens: prompt, reused of it, written.", ["model", "kind"], registry=self.registry
            ),
            "first_token": Histogram(
                "tunesmith_first_token_seconds", "From request to first token.", buckets=SECONDS, registry=self.registry
            ),
            "answers": Histogram(
                "tunesmith_answer_seconds", "From request to last token.", buckets=SECONDS, registry=self.registry
            ),
        }
        for name, value in made.items():
            object.__setattr__(self, name, value)

    def follow(self, engine: TextEngine) -> None:
        """Tell how many texts the engine writes and how many wait."""
        rows = Gauge("tunesmith_rows", "Texts that are being written.", registry=self.registry)
        rows.set_function(lambda: engine.num_rows)
        waiting = Gauge("tunesmith_waiting", "Texts that wait for a row.", registry=self.registry)
        waiting.set_function(lambda: engine.num_waiting)

    def text(self) -> bytes:
        return bytes(generate_latest(self.registry))
