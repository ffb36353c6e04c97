"""What an examination is made of."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Status = Literal["ok", "warn", "failed"]
_COLOURS = {"ok": "green", "warn": "yellow", "failed": "bold red"}


@dataclass(frozen=True)
class Check:
    """One check. fix: what to do when it is not ok. is_fatal: training cannot work until it is fixed.

    numbers: what was measured, for --json. number: from 1; the same check has the same number everywhere.
    """

    name: str
    status: Status
    found: str
    fix: str | None = None
    is_fatal: bool = False
    numbers: dict[str, Any] | None = None
    number: int = 0


@dataclass(frozen=True)
class Examination:
    """All checks of one machine."""

    checks: tuple[Check, ...]

    @property
    def can_train(self) -> bool:
        return not any(check.is_fatal for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        return {"can_train": self.can_train, "checks": [asdict(check) for check in self.checks]}

    def table(self) -> Table:
        """For a terminal."""
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, padding=(0, 1), show_header=False)
        table.add_column(justify="right")
        for name in ("check", "status", "found"):
            table.add_column(overflow="fold", no_wrap=name != "found")
        for check in self.checks:
            told = Text(check.found)
            if check.fix and check.status != "ok":
                told.append(f"\n{check.fix}", _COLOURS[check.status])
            table.add_row(str(check.number), check.name, Text(check.status, _COLOURS[check.status]), told)
        return table

    def summary(self) -> str:
        """`12 ok, 2 warn, 0 failed: training can work here`."""
        counts = [sum(check.status == status for check in self.checks) for status in ("ok", "warn", "failed")]
        fatal = [str(check.number) for check in self.checks if check.is_fatal]
        verdict = "training can work here" if not fatal else f"training cannot work here: fix {', '.join(fatal)}"
        return f"{counts[0]} ok, {counts[1]} warn, {counts[2]} failed: {verdict}"

    def print(self, console: Console) -> None:
        console.print(self.table())
        console.print(self.summary(), style="bold" if self.can_train else "bold red", highlight=False)
