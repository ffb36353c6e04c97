"""What the audit says: findings with a verdict, and the report that holds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tunesmith.audit.examples import Example
from tunesmith.errors import DataError
from tunesmith.redact import visible
from tunesmith.run.artefacts import Finding, Histogram

Status = Literal["blocks", "warns", "fine"]


@dataclass(frozen=True)
class AuditReport:
    """The audit of a data set as the model will see it.

    num_documents: of all splits; num_sampled: documents whose text was read. histogram: training rows by length in
    tokens, before anything is cut. seconds: how long the audit took.
    """

    findings: tuple[Finding, ...]
    examples: tuple[Example, ...]
    histogram: Histogram
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

    def to_json(self) -> dict[str, object]:
        return {
            "blocks": len(self.blocks),
            "warns": len(self.warnings),
            "num_documents": self.num_documents,
            "num_sampled": self.num_sampled,
            "seconds": round(self.seconds, 3),
            "findings": [finding.to_json() for finding in self.findings],
            "length_histogram": self.histogram.to_json(),
            "examples": [example.to_json() for example in self.examples],
        }


def counted(number: int, noun: str) -> str:
    """`1 row`, `8,807 rows`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def describe(finding: Finding) -> str:
    """A finding as one line that cannot move a cursor."""
    return visible(finding.line())
