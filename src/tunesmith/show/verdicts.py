"""Findings for the terminal: of the doctor, the audit and the report, in one form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from tunesmith.redact import redact, visible
from tunesmith.run.artefacts import Finding, Severity

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

COLOURS: dict[Severity, str] = {"good": "green", "note": "yellow", "bad": "bold red"}


def verdicts(findings: Iterable[Finding], *, header: bool = False) -> Table:
    """A line each: number, name, status, what was found, and what to do where it is not good."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1), show_header=header, header_style="bold")
    table.add_column("#", justify="right")
    for name in ("check", "", "found"):
        table.add_column(name, overflow="fold", no_wrap=name != "found")
    for finding in findings:
        told = Text(_plain(found(finding)))
        if finding.fix and finding.severity != "good":
            told.append(f"\n{_plain(finding.fix)}", COLOURS[finding.severity])
        status = Text(finding.status, COLOURS[finding.severity])
        table.add_row(str(finding.number), _plain(finding.name), status, told)
    return table


def bullets(findings: Iterable[Finding], *, subject: str = "") -> Iterator[Text]:
    """A line each, with what to do; with a `subject`, the name of the check too."""
    from rich.text import Text

    for finding in findings:
        line = f"{subject}: {finding.line()}" if subject else f"{finding.found} {finding.fix or ''}".rstrip()
        yield Text(_plain(f"- {line}"), COLOURS[finding.severity])


def found(finding: Finding) -> str:
    """What was found, the first rows concerned, and the option to set where it is not good."""
    rows = f" First: {', '.join(finding.rows)}." if finding.rows else ""
    option = f" Set {finding.option}." if finding.option and finding.severity != "good" else ""
    return f"{finding.found}{rows}{option}"


def _plain(text: str) -> str:
    return redact(visible(text))
