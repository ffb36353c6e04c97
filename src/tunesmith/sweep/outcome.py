"""What a sweep leaves: best.yaml, trials.json and sweep.html, written anew after each trial."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tunesmith.disk import write_text
from tunesmith.recipe import Recipe
from tunesmith.report.charts import Series, line_chart
from tunesmith.report.page import content_policy
from tunesmith.sweep.space import Range, Space, overrides
from tunesmith.sweep.study import RUN, Study
from tunesmith.sweep.trial import TRIALS

if TYPE_CHECKING:
    import optuna

BEST, ALL, PAGE = "best.yaml", "trials.json", "sweep.html"
_STATES = {"COMPLETE": "complete", "PRUNED": "ended early", "FAIL": "failed", "RUNNING": "running"}


def write_outcome(study: Study, recipe: Recipe) -> None:
    """Write what is known so far."""
    folder, best = study.folder, study.best
    rows, importances = rows_of(study), study.importances()
    found = {"best": None if best is None else best.number, "importances": importances, "trials": rows}
    write_text(folder / ALL, json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    if best is not None:
        asked = Recipe.parse(recipe.model_dump(mode="json"), BEST, overrides=overrides(best.params))
        write_text(folder / BEST, asked.to_yaml())
    write_text(folder / PAGE, _page(study, rows, importances))


def rows_of(study: Study) -> list[dict[str, Any]]:
    """A row for each trial that was begun, as trials.json has it."""
    return [_row(trial) for trial in study.kept.get_trials(deepcopy=False) if trial.state.name in _STATES]


def _row(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    seconds = trial.duration.total_seconds() if trial.duration is not None else None
    run = trial.user_attrs.get(RUN)
    return {
        "number": trial.number,
        "state": _STATES[trial.state.name],
        "values": trial.params,
        "eval_loss": trial.value if trial.state.name == "COMPLETE" else None,
        "evaluations": [trial.intermediate_values[key] for key in sorted(trial.intermediate_values)],
        "seconds": seconds,
        "why": trial.user_attrs.get("why"),
        "run": f"{TRIALS}/{run}" if run else None,
    }


def ranked(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Complete ones by their loss, then the others."""
    return sorted(rows, key=lambda row: (row["eval_loss"] is None, row["eval_loss"] or 0.0, row["number"]))


def _page(study: Study, rows: list[dict[str, Any]], importances: dict[str, float]) -> str:
    here = Path(__file__).parent
    style = (here.parent / "report" / "style.css").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(here), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html.jinja").render(
        name=study.folder.name,
        keys=[one.key for one in study.space],
        space=[str(one) for one in study.space],
        rows=ranked(rows),
        best=study.best,
        importances=importances,
        charts=_charts(study.space, rows),
        style=Markup(style),
        policy=content_policy(style),
    )


def _charts(space: Space, rows: list[dict[str, Any]]) -> list[tuple[str, Markup]]:
    """The loss over each key that is a range; what was ended early shows where it had come to."""
    charts = []
    for one in space:
        if not isinstance(one, Range):
            continue
        place = math.log10 if one.log else float
        complete = _points(rows, one.key, place, complete=True)
        early = _points(rows, one.key, place, complete=False)
        chart = line_chart(
            [Series("", sorted(complete), "plain", marked=complete), Series("", (), "faint", marked=early)],
            title=one.key,
            description=f"Held-out loss of each trial over {one.key}",
            y_format=lambda value: f"{value:.3f}",
            x_label=f"log10 of {one.key}" if one.log else one.key,
        )
        charts.append((one.key, chart))
    return charts


def _points(rows: list[dict[str, Any]], key: str, place: Any, *, complete: bool) -> list[tuple[float, float]]:
    points = []
    for row in rows:
        if key in row["values"] and row["evaluations"] and (row["eval_loss"] is not None) == complete:
            loss = row["eval_loss"] if complete else row["evaluations"][-1]
            points.append((place(row["values"][key]), loss))
    return points
