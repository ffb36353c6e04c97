"""curve.json: what was trained, and what follows for more rows."""

from __future__ import annotations

from typing import ClassVar

from tunesmith.run.artefacts import Artefact, Record


class Point(Record):
    """A share of the rows, trained as the plan decides for it. Losses are in nats a token of the recipe's model."""

    model: str
    """That of the recipe, or a bigger one."""
    share: float
    again: bool
    """The smallest share once more, from other rows and another seed: how far luck goes."""
    num_rows: int
    train_tokens: int
    """Supervised ones, of all epochs."""
    tokens_per_step: int
    learning_rate: float
    steps: int
    eval_loss: float
    eval_bits_per_byte: float | None
    base_loss: float
    """Of the model before training."""
    train_seconds: float
    tokens_per_second: float | None
    """Supervised tokens a second of training."""


class Band(Record):
    """A forecast, and an interval that holds it nine times in ten."""

    value: float
    low: float
    high: float


class Forecast(Record):
    """What training on so many rows would end with."""

    factor: float
    """Of the rows that there are."""
    num_rows: int
    eval_loss: Band
    gain: Band
    """How much lower than with all the rows that there are; below zero for fewer."""
    minutes: float | None
    """In optimizer steps, on this machine."""


class Bigger(Record):
    """The same for the bigger model."""

    name: str
    gain: Band
    """At all the rows that there are, over the recipe's model there."""
    forecasts: tuple[Forecast, ...]


class Curve(Artefact):
    """curve.json, in the sweep's folder."""

    FILE: ClassVar[str] = "curve.json"
    VERSION: ClassVar[int] = 1

    version: int = 1
    model: str
    num_rows: int
    """To train on, all of them."""
    num_held_out: int
    """Documents."""
    held_out_error: float | None
    """Standard error of the base's held-out loss over documents: other rows of this kind move the whole curve by that;
    null where the base was scored by an earlier process."""
    base_loss: float | None
    points: tuple[Point, ...]
    exponent: Band | None
    """Of the rows; null, as all below, until every share is trained."""
    floor: Band | None
    """The loss that no number of rows goes below."""
    noise: Band | None
    """Standard deviation of a run's held-out loss."""
    forecasts: tuple[Forecast, ...]
    bigger: Bigger | None
    verdict: tuple[str, ...]

    def points_of(self, model: str) -> list[Point]:
        """The shares that one model was trained on."""
        return [point for point in self.points if point.model == model]
