"""What happened to every row that was read, and how many may go wrong before reading stops."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tunesmith.data.read.table import Table
from tunesmith.data.rows.pieces import EMPTY_THOUGHTS, SYSTEM_MOVED, TOOLS_LEFT_OUT, TURN_A_DOCUMENT
from tunesmith.errors import DataError
from tunesmith.run.artefacts import RowsMet

EMPTY_SHARE = 0.01
EMPTY_ROWS = 2
_SHOWN = 3
_SAID = {
    SYSTEM_MOVED: "the template takes no system turn, so its text stands in front of the first user turn",
    TURN_A_DOCUMENT: "the template rewrites earlier turns, so that a conversation is a document a turn, each as "
    "the model sees it when it is used",
    TOOLS_LEFT_OUT: "the template does not write tools, so that the model is not told of them",
    EMPTY_THOUGHTS: "the template's generation prompt opens a thought and is no beginning of the assistant's turn, so "
    "that an empty thought is learned before an answer that has none",
}


@dataclass
class Ledger:
    """Counts of rows. max_bad_rows: the recipe's share, or None for the defaults.

    Unreadable rows are an error at once unless a share is allowed; empty rows are counted, and up to 1% of them (or two
    rows) pass by default.
    """

    max_bad_rows: float | None
    rows_read: int = 0
    usable: int = 0
    empty: int = 0
    bad_rows: int = 0
    examples: dict[str, list[str]] = field(default_factory=lambda: {"empty": [], "bad_rows": []})
    first_problem: str = ""
    met: dict[str, RowsMet] = field(default_factory=dict)

    def bad(self, table: Table, row: int, problem: str) -> None:
        """Count an unreadable row. Raises DataError when none is allowed."""
        if not self.max_bad_rows:
            raise DataError(f"{table.row_name(row)}: {problem}")
        self.bad_rows += 1
        if not self.first_problem:
            self.first_problem = problem.rstrip(".")
        if len(self.examples["bad_rows"]) < _SHOWN:
            self.examples["bad_rows"].append(table.row_name(row))

    def nothing(self, table: Table, row: int) -> None:
        """Count a row without text, or without anything to learn."""
        self.empty += 1
        if len(self.examples["empty"]) < _SHOWN:
            self.examples["empty"].append(table.row_name(row))

    def note(self, facts: Iterable[str], table: Table, row: int) -> None:
        """Count a usable row under each fact about it."""
        for fact in facts:
            met = self.met.get(fact, RowsMet(num_rows=0, rows=()))
            rows = met.rows if len(met.rows) == _SHOWN else (*met.rows, table.row_name(row))
            self.met[fact] = RowsMet(num_rows=met.num_rows + 1, rows=rows)

    def say(self) -> list[str]:
        """What was done to conversations so that the template takes them, as clauses."""
        return [f"{clause} ({self.met[fact].num_rows:,} rows)" for fact, clause in _SAID.items() if fact in self.met]

    def close(self, where: str, what: str) -> None:
        """Check the shares once everything is read. what: what was looked for in a row, for messages."""
        if self.rows_read == 0:
            raise DataError(
                f"{where}: holds no rows, only a header or white space. Expected at least two rows of text."
            )
        if self.usable == 0:
            first = ", ".join(self.examples["empty"] or self.examples["bad_rows"])
            raise DataError(
                f"{where}: none of the {self.rows_read} rows holds anything to learn ({what}; first: {first}). Choose "
                "another column, or check how the file was written."
            )
        self._check_share("empty", self.empty, f"empty ({what})")
        self._check_share("bad_rows", self.bad_rows, f"unreadable ({self.first_problem})")

    def _check_share(self, kind: str, count: int, what: str) -> None:
        allowed = EMPTY_SHARE if self.max_bad_rows is None else self.max_bad_rows
        spare = EMPTY_ROWS if self.max_bad_rows is None else 0
        if count <= max(allowed * self.rows_read, spare):
            return
        share = count / self.rows_read
        needed = min(1.0, -(-share * 1000 // 1) / 1000)
        raise DataError(
            f"{self.examples[kind][0]}: {count} of {self.rows_read} rows ({share:.1%}) are {what}; at most "
            f"{allowed:.1%} may be. First: {', '.join(self.examples[kind])}. Mend them, or set data.max_bad_rows: "
            f"{needed:g}."
        )
