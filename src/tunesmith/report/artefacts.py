"""What a report shows, read from the run directory. Every part may be missing or damaged; the report then says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from tunesmith.errors import TunesmithError
from tunesmith.recipe import Recipe
from tunesmith.report.agree import agreed
from tunesmith.run.artefacts import Artefact, Comparison, DataAccount, MetricsLine, Plan, Result, SamplesLine, Status
from tunesmith.run.directory import LOG, METRICS, RECIPE, SAMPLES, RunDir
from tunesmith.run.places import Places

LOG_LINES = 60
LOG_BYTES = 64_000
T = TypeVar("T")
A = TypeVar("A", bound=Artefact)


@dataclass(frozen=True)
class Artefacts:
    """The content of a run directory."""

    name: str
    path: str
    """By which commands find the run: as it was given; its name where that is a full path."""
    recipe: Recipe | None
    recipe_text: str
    plan: Plan | None
    data: DataAccount | None
    metrics: Sequence[MetricsLine]
    samples: Sequence[SamplesLine]
    """Written at evaluations, while it trained."""
    result: Result | None
    compare: Comparison | None
    """Its held-out scores have the values of `result`."""
    status: Status | None
    log: str
    """The last lines of log.txt."""
    places: Places
    """Full paths of this machine, which are shown by name."""
    problems: list[str] = field(default_factory=list)
    """Artefacts that exist but cannot be read, and parts of them that were left out."""

    @property
    def finished(self) -> bool:
        return self.result is not None and self.result.finished


def read_artefacts(run_dir: RunDir) -> Artefacts:
    """Read what is there. What is damaged is left out and becomes a line in `problems`; the rest still stands."""
    problems: list[str] = []

    def attempt(name: str, read: Callable[[], T], empty: T) -> T:
        if not run_dir.has(name):
            return empty
        try:
            return read()
        except (TunesmithError, OSError, ValueError) as error:
            problems.append(f"{name} cannot be read: {error}")
            return empty

    def salvaged(kind: type[A]) -> A | None:
        values = attempt(kind.FILE, lambda: run_dir.read_json(kind.FILE), None)
        if values is None:
            return None
        found, told = kind.salvage(values, kind.FILE)
        problems.extend(told)
        if found is None:
            problems.append(f"{kind.FILE} cannot be used.")
        return found

    def metrics() -> Sequence[MetricsLine]:
        lines, num_damaged = run_dir.metrics_lines()
        if num_damaged:
            lines_are = (
                "1 line cannot be used and is" if num_damaged == 1 else f"{num_damaged} lines cannot be used and are"
            )
            problems.append(f"{METRICS}: {lines_are} left out.")
        return lines

    result = salvaged(Result)
    return Artefacts(
        name=run_dir.path.resolve().name,
        path=run_dir.places.by_name(str(run_dir.path)),
        recipe=attempt(RECIPE, run_dir.recipe, None),
        recipe_text=attempt(RECIPE, lambda: run_dir.file(RECIPE).read_text(encoding="utf-8", errors="replace"), ""),
        plan=salvaged(Plan),
        data=salvaged(DataAccount),
        metrics=attempt(METRICS, metrics, ()),
        samples=attempt(SAMPLES, run_dir.samples, ()),
        result=result,
        compare=agreed(salvaged(Comparison), result),
        status=salvaged(Status),
        log=attempt(LOG, lambda: _tail(run_dir), ""),
        places=run_dir.places,
        problems=problems,
    )


def _tail(run_dir: RunDir) -> str:
    with run_dir.file(LOG).open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - LOG_BYTES))
        text = file.read().decode("utf-8", errors="replace")
    return "\n".join(text.splitlines()[-LOG_LINES:])
