"""What a report shows, read from the run directory. Every part may be missing or damaged; the report then says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tunesmith.errors import TunesmithError
from tunesmith.recipe import Recipe
from tunesmith.run.directory import COMPARE, DATA, LOG, METRICS, PLAN, RECIPE, RESULT, STATUS, RunDir

LOG_LINES = 60
LOG_BYTES = 64_000
T = TypeVar("T")


@dataclass(frozen=True)
class Artefacts:
    """The content of a run directory."""

    name: str
    recipe: Recipe | None
    recipe_text: str
    plan: dict[str, Any]
    data: dict[str, Any]
    metrics: list[dict[str, Any]]
    result: dict[str, Any]
    compare: dict[str, Any]
    status: dict[str, Any]
    log: str
    """The last lines of log.txt."""
    problems: list[str] = field(default_factory=list)
    """Artefacts that exist but cannot be read."""

    @property
    def finished(self) -> bool:
        return bool(self.result) and not self.result.get("stopped")


def read_artefacts(run_dir: RunDir) -> Artefacts:
    """Read what is there. A damaged artefact becomes a line in `problems`; the rest of the report still stands."""
    problems: list[str] = []

    def attempt(name: str, read: Callable[[], T], empty: T) -> T:
        if not run_dir.has(name):
            return empty
        try:
            return read()
        except (TunesmithError, OSError, ValueError) as error:
            problems.append(f"{name} cannot be read: {error}")
            return empty

    def json_of(name: str) -> dict[str, Any]:
        return attempt(name, lambda: run_dir.read_json(name), {})

    return Artefacts(
        name=run_dir.path.resolve().name,
        recipe=attempt(RECIPE, run_dir.recipe, None),
        recipe_text=attempt(RECIPE, lambda: run_dir.file(RECIPE).read_text(encoding="utf-8", errors="replace"), ""),
        plan=json_of(PLAN),
        data=json_of(DATA),
        metrics=attempt(METRICS, lambda: [line for line in run_dir.metrics() if isinstance(line, dict)], []),
        result=json_of(RESULT),
        compare=json_of(COMPARE),
        status=json_of(STATUS),
        log=attempt(LOG, lambda: _tail(run_dir), ""),
        problems=problems,
    )


def _tail(run_dir: RunDir) -> str:
    with run_dir.file(LOG).open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - LOG_BYTES))
        text = file.read().decode("utf-8", errors="replace")
    return "\n".join(text.splitlines()[-LOG_LINES:])
