"""compare.json: what base and tuned wrote, and every score."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from tunesmith.recipe import CompareSection
from tunesmith.run.artefacts.record import Artefact, Record


class Interval(Record):
    """A value and the range that holds it with 95% confidence; null where it cannot be told."""

    value: float | None
    low: float | None
    high: float | None


class Score(Record):
    """One line of a comparison, with all that it takes to show it."""

    title: str
    meaning: str
    """What it measures, in a sentence."""
    better: Literal["lower", "higher", "real", "at most real"]
    """Which way is better; `real`: the nearer to the real texts the better; `at most real`: only more is worse."""
    unit: str
    """nats per token, AUC, share, words, ..."""
    base: Interval | None
    tuned: Interval | None
    real: Interval | None
    """Of real held-out texts, the yardstick."""
    change: Interval | None
    """Tuned minus base."""
    gap: Interval | None
    """Tuned minus real."""


class GroupLoss(Record):
    """The loss on the documents of one slice or kind."""

    name: str
    num_documents: int
    num_tokens: int
    base: Interval
    tuned: Interval
    change: Interval


class GroupLosses(Record):
    """Held-out losses by the values of a column."""

    column: str | None = None
    rows: tuple[GroupLoss, ...]


class ComparisonCounts(Record):
    """How many texts the scores rest on."""

    held_out_documents: int
    scored_samples: int
    """With a real text beside them."""
    training_rows: int


class NamedRow(Record):
    """A training row; similarity where it was looked for as the nearest one."""

    row: str
    text: str
    similarity: float | None = None


class Wrote(Record):
    """One text of one side, without its prompt. copied: [start, end) characters that stand in a training row."""

    text: str
    ended: bool
    """By itself, before the length limit."""
    copied: tuple[tuple[int, int], ...]
    copied_share: float
    """Of its words."""
    longest_copy: int
    """Words in a row that stand in one training row."""
    copied_from: NamedRow | None
    """The training row of the longest copy."""
    nearest: NamedRow | None
    """The training row most like it."""


class Sample(Record):
    """A prompt and what each side wrote after it; `real` is null for a prompt of the recipe."""

    kind: Literal["prompt", "opening", "unconditional"]
    """A prompt of the recipe, the opening of a held-out row, or nothing."""
    prompt: str
    row: str | None
    """The held-out row that it belongs to."""
    base: Wrote
    tuned: Wrote
    real: Wrote | None


class ComparedBase(Record):
    """The model that the tuned one is compared with."""

    name: str
    revision: str | None
    licence: str | None


class ComparedTuned(Record):
    """The model that was tuned."""

    name: str
    """Of the run."""
    adapter: bool
    """Whether it is an adapter on the base, or full weights."""


class BlindChoice(Record):
    """One choice between two texts whose writers were hidden."""

    prompt: str
    choice: Literal["tuned", "base", "tie"]
    tuned: str
    """What the tuned model wrote."""


class BlindResult(Record):
    """Wins of the tuned model where a person chose without knowing; a tie counts half."""

    num_choices: int
    wins: int
    losses: int
    ties: int
    win_rate: float
    low: float
    high: float
    choices: tuple[BlindChoice, ...]


class Vote(Record):
    """votes.jsonl: a line for each choice in a blind test of the playground. Which text was whose was not shown."""

    version: int = 1
    time: float
    """Unix seconds."""
    prompt: str
    choice: Literal["tuned", "base", "tie"]
    tuned: str
    """What the tuned model wrote."""
    base: str
    seed: int
    """Of both texts."""
    max_new_tokens: int
    temperature: float
    top_p: float


class Comparison(Artefact):
    """compare.json: what base and tuned wrote, and every score."""

    FILE: ClassVar[str] = "compare.json"
    VERSION: ClassVar[int] = 2
    OLDER: ClassVar[Mapping[str, Any]] = MappingProxyType({"version": 1, "blind": None})

    version: int = 2
    settings: CompareSection
    """The recipe's compare section."""
    scores: dict[str, Score]
    telling: tuple[str, ...]
    """Words that most give the tuned model's texts away."""
    slices: GroupLosses
    """The held-out loss by the values of data.slice."""
    general: GroupLosses
    """The loss on general texts by their kind: what was forgotten."""
    counts: ComparisonCounts
    samples: tuple[Sample, ...]
    base: ComparedBase
    tuned: ComparedTuned
    notes: tuple[str, ...]
    """What a reader should know, as sentences."""
    environment: dict[str, str]
    """Versions and machine."""
    seconds: float
    """That it took."""
    blind: BlindResult | None = None
