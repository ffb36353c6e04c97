"""What one export is asked for, what it has to work with, and what a format gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.run.artefacts import ExportFormat, Quant, QuantCost, RoundTrip

if TYPE_CHECKING:
    from tunesmith.export.check import Row, Seen
    from tunesmith.models.tokenizer import TextTokenizer

Say = Callable[..., None]


@dataclass(frozen=True)
class Asked:
    """What the user asked for."""

    format: ExportFormat
    quant: Quant | None = None
    """None: the format's own default."""
    out: Path | None = None
    """None: RUN/export/NAME."""
    repo: str | None = None
    """OWNER/NAME on the hub."""
    force: bool = False
    public: bool = False
    adapter: bool = False
    """The adapter alone, as a file of its own."""
    fold: bool = False
    """Safetensors of GPT-Neo and GPT-J as GPT-2 and Phi."""


@dataclass(frozen=True)
class Job:
    """One export, ready to be written."""

    asked: Asked
    name: str
    """Of the run."""
    folder: Path
    tokenizer: TextTokenizer
    licence: str | None
    is_chat: bool
    starts: bool
    """Whether the run's documents begin with the start token."""
    rows: Sequence[Row]
    what: str
    """Which rows these are."""
    begun: Sequence[tuple[int, ...]]
    tuned: Seen
    """What the tuned model made of the rows, its adapter not merged."""
    say: Say
    notes: list[str] = field(default_factory=list)

    def texts(self) -> list[str]:
        """To tokenise: rows as text, and what tokenizers like to differ in."""
        written = [self.tokenizer.decode(row.ids) for row in self.rows[:8]]
        return [*(text for text in written if text.strip()), HARD_TEXT]


HARD_TEXT = "Don't  stop at 1234567 o'clock,\n\n\tétranger! 日本語 is (3.14) 👍🏽 …"


@dataclass(frozen=True)
class Adapter:
    """One low-rank adapter: what is added to a weight is up @ down. down: [rank, in], up: [out, rank]."""

    down: Any
    up: Any


@dataclass(frozen=True)
class Proof:
    """What a format wrote, and how it did."""

    quant: Quant
    architecture: str
    vocabulary: int
    context_length: int | None
    round_trips: tuple[RoundTrip, ...]
    cost: QuantCost | None
    library: str
    use: str
    """Markdown: how to run it."""
