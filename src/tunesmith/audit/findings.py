"""What the audit says: findings with a verdict, and the report that holds them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from tunesmith.audit.examples import Example
from tunesmith.errors import DataError
from tunesmith.redact import visible

Status = Literal["blocks", "warns", "fine"]


@dataclass(frozen=True)
class Finding:
    """One numbered check.

    found: what was found, with its numbers, in a sentence. value and limit: the number that decides and the number it
    is held against, where there is one. option: what to set in the recipe, as `section.key: value`. rows: names of the
    first rows concerned. number: from 1; the same check has the same number in every report.
    """

    name: str
    status: Status
    found: str
    value: float | None = None
    limit: float | None = None
    option: str | None = None
    rows: tuple[str, ...] = ()
    number: int = 0


@dataclass(frozen=True)
class AuditReport:
    """The audit of a data set as the model will see it.

    num_documents: of all splits; num_sampled: documents whose text was read. histogram: training rows by length in
    tokens, before anything is cut, as {"edges": [n + 1], "counts": [n]}. seconds: how long the audit took.
    """

    findings: tuple[Finding, ...]
    examples: tuple[Example, ...]
    histogram: dict[str, list[int]]
    num_documents: int
    num_sampled: int
    seconds: float

    @property
    def blocks(self) -> tuple[Finding, ...]:
        """Findings that training must not start with."""
        return tuple(finding for finding in self.findings if finding.status == "blocks")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.status == "warns")

    def check(self) -> None:
        """Raise DataError with every blocking finding, when there is one."""
        if self.blocks:
            raise DataError("\n".join(f"data: {describe(finding)}" for finding in self.blocks))

    def to_json(self) -> dict[str, Any]:
        return {
            "blocks": len(self.blocks),
            "warns": len(self.warnings),
            "num_documents": self.num_documents,
            "num_sampled": self.num_sampled,
            "seconds": round(self.seconds, 3),
            "findings": [{**asdict(finding), "rows": list(finding.rows)} for finding in self.findings],
            "length_histogram": self.histogram,
            "examples": [example.to_json() for example in self.examples],
        }


def counted(number: int, noun: str) -> str:
    """`1 row`, `8,807 rows`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def describe(finding: Finding) -> str:
    """A finding as one line: name, what was found, the first rows, what to set."""
    rows = f" First: {', '.join(finding.rows)}." if finding.rows else ""
    option = f" Set {finding.option}." if finding.option else ""
    return visible(f"{finding.name}: {finding.found}{rows}{option}")
