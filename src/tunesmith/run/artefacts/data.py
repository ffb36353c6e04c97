"""data.json: what was read, what became of it, and what the audit found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from tunesmith.run.artefacts.record import Artefact, JsonObject, Record


class FileAccount(Record):
    """One input of the data."""

    path: str
    rows: int
    format: str
    """csv, jsonl, parquet, ..."""
    encoding: str | None
    delimiter: str | None
    content: str
    """Digest of what was read."""
    first_row: int
    """Number that its first row is called by: 2 below a header."""
    weight: float
    """Times that each row is seen per epoch."""
    how: str
    """What a row is and how that was recognised, in words."""


class RowNames(Record):
    """The first rows of each kind that were left out."""

    empty: tuple[str, ...]
    bad_rows: tuple[str, ...]


class Dropped(Record):
    """Documents that were left out on purpose."""

    too_long: int
    """Documents that data.long left out."""
    by_weight_or_small: int
    """Rows that a weight below 1 or a dry run left out."""


class LongAccount(Record):
    """What became of all documents, and of those that are longer than train.max_length."""

    num_documents: int
    num_long: int
    num_pieces: int
    """Made of long documents by data.long: split."""
    num_truncated: int
    num_dropped: int
    context_tokens: int
    """Fed a second time as context, never a target."""
    lost_targets: int
    """Supervised tokens that are not trained."""
    unread_tokens: int
    """The others that no piece holds."""


class SplitAccount(Record):
    """What one split holds."""

    documents: int
    tokens: int
    """Start and end of each document included."""
    targets: int
    """Supervised tokens."""
    fingerprint: str


class Histogram(Record):
    """edges: [n + 1] tokens; counts: [n] rows."""

    edges: tuple[int, ...]
    counts: tuple[int, ...]


Severity = Literal["good", "note", "bad"]
SEVERITIES: Mapping[str, Severity] = MappingProxyType(
    {
        **dict.fromkeys(("good", "ok", "fine"), "good"),
        **dict.fromkeys(("note", "warn", "warns"), "note"),
        **dict.fromkeys(("bad", "failed", "blocks"), "bad"),
    }
)
"""Of a finding's status, in the words of the report, the doctor and the audit."""


class Finding(Record):
    """A numbered verdict: what was found, with its numbers, in a sentence, and what to do."""

    name: str
    status: str
    """Of the audit: blocks, warns or fine; of the doctor: failed, warn or ok; of the report: bad, note or good."""
    found: str
    value: float | None = None
    """The number that decides, and `limit`, the one it is held against, where there are such."""
    limit: float | None = None
    option: str | None = None
    """What to set in the recipe, as `section.key: value`."""
    fix: str | None = None
    """What else to do."""
    is_fatal: bool = False
    """Nothing works until it is done."""
    numbers: JsonObject | None = None
    """What was measured."""
    rows: tuple[str, ...] = ()
    """Names of the first rows concerned."""
    number: int = 0
    """From 1; the same check has the same number everywhere. 0: not numbered."""

    def line(self) -> str:
        """`name: what was found. First: rows. Set option. What else to do`."""
        rows = f" First: {', '.join(self.rows)}." if self.rows else ""
        option = f" Set {self.option}." if self.option else ""
        return f"{self.name}: {self.found}{rows}{option}{f' {self.fix}' if self.fix else ''}"

    @property
    def severity(self) -> Severity:
        return SEVERITIES.get(self.status, "note")

    @model_serializer(mode="wrap")
    def _without_what_is_not_said(self, written: SerializerFunctionWrapHandler) -> JsonObject:
        values: JsonObject = written(self)
        return {key: value for key, value in values.items() if key not in _SAID_IF_SO or value}


_SAID_IF_SO = ("fix", "is_fatal", "numbers")


def numbered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Numbered from 1, in their order."""
    return tuple(finding.model_copy(update={"number": number}) for number, finding in enumerate(findings, start=1))


class RowsMet(Record):
    """Rows that something was found in."""

    num_rows: int
    rows: tuple[str, ...]
    """Names of the first."""


class ChatAccount(Record):
    """What is to be known of conversations."""

    date: str | None = None
    """The day that the template writes, where it writes one."""
    met: dict[str, RowsMet] = Field(default_factory=dict)
    """Rows with control_tokens in their turns, with empty_turns, those that became turn_a_document, whose system_moved
    into the first user turn, whose tools_left_out the template does not write, or that got empty_thoughts."""


class RowsRead(Record):
    """What reading found, before anything is split or tokenised."""

    files: tuple[FileAccount, ...]
    rows_read: int
    columns: tuple[str, ...]
    encoding: str | None
    """Of all files that have one, where it is one; so is the delimiter."""
    delimiter: str | None
    """Of csv files."""
    kind: str
    """text, prompt or chat; mixed, where files differ."""
    how: str
    """What a row is and how that was recognised, in words."""
    empty: int
    """Rows without text that were left out."""
    bad_rows: int
    """Rows that could not be read and were left out."""
    examples: RowNames
    """Names of rows that were left out."""
    notes: tuple[str, ...]
    """What a person should know, as sentences."""
    chat: ChatAccount | None = None
    """Where rows are chat."""
    warnings: tuple[str, ...] = ()
    """What may be wrong, as sentences."""
    fallback_lines: int = 0
    """Lines that data.encoding could not read and data.fallback_encoding did."""


class DataAccount(RowsRead, Artefact):
    """data.json: what was read, what became of every row and token, and fingerprints."""

    FILE: ClassVar[str] = "data.json"
    VERSION: ClassVar[int] = 2
    OLDER: ClassVar[Mapping[str, Any]] = MappingProxyType({"version": 1, "findings": ()})

    version: int = 2
    duplicates: int
    """Rows that repeat another word for word."""
    straddling_duplicates: int
    """Held-out rows that are also trained on."""
    dropped: Dropped
    truncated: int
    """Documents that were cut."""
    truncated_tokens: int
    """Supervised tokens that were cut off."""
    long: LongAccount
    splits: dict[str, SplitAccount]
    """By name: train, eval, test."""
    split_by: str
    """What decides a row's split, in words."""
    length_histogram: Histogram
    """Training rows by length in tokens, before anything is cut."""
    chat_template: str | None
    """Whose, where rows are chat."""
    tokenizer: str
    """Fingerprint."""
    max_length: int
    """In tokens, start and end included."""
    small: bool
    """Of a dry run on a few rows."""
    fingerprint: str
    """Of all splits: equal fingerprints train alike."""
    findings: tuple[Finding, ...] = ()
    """Of the audit; empty before it."""

    @property
    def num_held_out(self) -> int:
        """Documents that are scored and never trained on, the test's not counted."""
        return self.splits["eval"].documents if "eval" in self.splits else 0

    @property
    def dry_run(self) -> str:
        """`dry run: 100 rows, 22 held out`; empty for a run on all rows."""
        trained = self.splits["train"].documents if "train" in self.splits else 0
        return f"dry run: {trained:,} rows, {self.num_held_out:,} held out" if self.small else ""
