"""What an examination is made of."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["ok", "warn", "failed"]


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

    def summary(self) -> str:
        """`12 ok, 2 warn, 0 failed: training can work here`."""
        counts = [sum(check.status == status for check in self.checks) for status in ("ok", "warn", "failed")]
        fatal = [str(check.number) for check in self.checks if check.is_fatal]
        verdict = "training can work here" if not fatal else f"training cannot work here: fix {', '.join(fatal)}"
        return f"{counts[0]} ok, {counts[1]} warn, {counts[2]} failed: {verdict}"
