"""What an examination is made of: findings, each ok, warn or failed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tunesmith.run.artefacts import Finding

KEYS = ("name", "status", "found", "fix", "is_fatal", "numbers", "number")


@dataclass(frozen=True)
class Examination:
    """All checks of one machine."""

    checks: tuple[Finding, ...]

    @property
    def can_train(self) -> bool:
        return not any(check.is_fatal for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        checks = [{key: getattr(check, key) for key in KEYS} for check in self.checks]
        return {"can_train": self.can_train, "checks": checks}

    def summary(self) -> str:
        """`12 ok, 2 warn, 0 failed: training can work here`."""
        counts = [sum(check.status == status for check in self.checks) for status in ("ok", "warn", "failed")]
        fatal = [str(check.number) for check in self.checks if check.is_fatal]
        verdict = "training can work here" if not fatal else f"training cannot work here: fix {', '.join(fatal)}"
        return f"{counts[0]} ok, {counts[1]} warn, {counts[2]} failed: {verdict}"
