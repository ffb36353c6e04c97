"""A real tiny run to report on, and the same with markup in every field."""

from __future__ import annotations

import json
import typing
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from tunesmith.run.artefacts import (
    ARTEFACTS,
    Artefact,
    Comparison,
    DataAccount,
    Interval,
    Plan,
    Result,
    SamplesLine,
    Score,
    WrittenText,
)
from tunesmith.run.directory import STATUS, RunDir

HOSTILE = (
    """</style></title><script>document.title='owned'</script><img src=x onerror="document.title='owned'">'"{{7*7}}"""
)


def choices(annotation: Any) -> set[Any]:
    """Every value that a field may choose from; with others its record would not be read."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return set().union(*(choices(field.annotation) for field in annotation.model_fields.values()))
    if typing.get_origin(annotation) is typing.Literal:
        return set(typing.get_args(annotation))
    return set().union(*map(choices, typing.get_args(annotation)))


KEPT = set().union(*map(choices, ARTEFACTS))


def hostile(value: Any) -> Any:
    """Every text and every free key of an artefact replaced; numbers stay."""
    if isinstance(value, dict):
        changed = {key: hostile(item) for key, item in value.items()}
        return changed | {HOSTILE: HOSTILE} if all(isinstance(item, str) for item in value.values()) else changed
    if isinstance(value, list):
        return [hostile(item) for item in value]
    return HOSTILE + value if isinstance(value, str) and value not in KEPT else value


@pytest.fixture
def hostile_run(copied_run: RunDir) -> RunDir:
    """The run with `HOSTILE` in every field of every artefact that a report reads."""
    for kind in (Plan, DataAccount, Result, Comparison):
        path = copied_run.file(kind.FILE)
        path.write_text(json.dumps(hostile(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")
    events = [{"step": 3, "kind": HOSTILE, "note": HOSTILE}]
    copied_run.write_json(Result.FILE, copied_run.read_json(Result.FILE) | {"events": events})
    copied_run.write_json(STATUS, {"state": HOSTILE})
    copied_run.log(HOSTILE)
    wrote = WrittenText(prompt=HOSTILE, text=HOSTILE, ended=True, is_answer=True)
    copied_run.append_samples(SamplesLine(step=3, texts=(wrote,)))
    recipe = copied_run.recipe()
    changed = {
        "model": recipe.model.model_copy(update={"name": HOSTILE}),
        "data": recipe.data.model_copy(update={"path": HOSTILE}),
    }
    copied_run.write_recipe(recipe.model_copy(update=changed))
    return copied_run


@pytest.fixture(scope="session")
def change() -> Callable[..., None]:
    """change(run_dir, kind, **values): write an artefact of a run again with other values."""

    def call(run_dir: RunDir, kind: type[Artefact], **values: Any) -> None:
        run_dir.write(run_dir.read(kind).model_copy(update=values))

    return call


@pytest.fixture(scope="session")
def make_score() -> Callable[..., Score]:
    """make_score(better, unit, base, tuned, real, spread): each interval as wide as `spread` to both sides."""

    def make(better: Any, unit: str, base: float, tuned: float, real: float | None, spread: float) -> Score:
        def interval(value: float | None, width: float = 1.0) -> Interval | None:
            if value is None:
                return None
            return Interval(value=value, low=value - width * spread, high=value + width * spread)

        return Score(
            title="A score",
            meaning="What it means",
            better=better,
            unit=unit,
            base=interval(base),
            tuned=interval(tuned),
            real=interval(real),
            change=interval(tuned - base, 1.2),
            gap=interval(None if real is None else tuned - real, 1.2),
        )

    return make
