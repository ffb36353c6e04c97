"""What a sweep leaves: best.yaml, trials.json and sweep.html, written anew after each trial."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tunesmith.disk import write_text
from tunesmith.recipe import Recipe
from tunesmith.report.charts import Dot, Series, dot_chart, line_chart
from tunesmith.report.numbers import short
from tunesmith.report.page import content_policy
from tunesmith.sweep.space import Choice, Range, Space, overrides
from tunesmith.sweep.study import RUN, SCORES, SHARES, Study
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
        "evaluations": trial.user_attrs.get(SCORES, []),
        "shares": trial.user_attrs.get(SHARES, []),
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
        importances=_importances(importances),
        charts=_charts(study.space, rows, None if study.best is None else study.best.number),
        style=Markup(style),
        policy=content_policy(style),
    )


def _importances(shares: dict[str, float]) -> Markup:
    """A line a key, as long as what it explains."""
    return dot_chart(
        [(key.removeprefix("train."), [Dot(share, 0.0, share, "eval")]) for key, share in shares.items()],
        title="What mattered",
        description="Share of the spread of losses that each key explains",
        x_format=lambda share: f"{share:.0%}",
        x_label="share explained",
        zero=True,
    )


Chart = tuple[str, Markup, str]
"""Title, picture and what it shows."""


def _charts(space: Space, rows: list[dict[str, Any]], best: int | None) -> list[Chart]:
    """Each trial's way, and the loss over each key; what was ended early shows how far it came, the best stands out."""
    charts = [("The trials on their way", _ways(rows, best), "Blue: the best. Faint: ended early, or failed.")]
    return charts + [_over_words(one, rows) if _is_words(one) else _over_numbers(one, rows, best) for one in space]


def _is_words(one: Range | Choice) -> bool:
    return isinstance(one, Choice) and not all(type(value) in (int, float) for value in one.values)


def _over_words(one: Range | Choice, rows: list[dict[str, Any]]) -> Chart:
    """The best trial with each value, and how far the others reach."""
    losses: dict[str, list[float]] = {}
    for row in rows:
        if one.key in row["values"] and row["eval_loss"] is not None:
            losses.setdefault(str(row["values"][one.key]), []).append(row["eval_loss"])
    chart = dot_chart(
        [(value, [Dot(min(found), min(found), max(found), "eval")]) for value, found in sorted(losses.items())],
        title=one.key,
        description=f"Held-out loss of the trials with each {one.key}",
        x_format=lambda value: f"{value:.2f}",
        x_label="held-out loss",
    )
    return one.key, chart, "The lowest loss with each value; the line reaches to the highest."


def _over_numbers(one: Range | Choice, rows: list[dict[str, Any]], best: int | None) -> Chart:
    is_log = isinstance(one, Range) and one.log
    groups = _grouped(rows, one.key, math.log10 if is_log else float, best)
    chart = line_chart(
        [Series("", groups[look], look, joined=False) for look in ("faint", "plain", "eval") if look in groups],
        title=one.key,
        description=f"Held-out loss of each trial over {one.key}",
        y_format=lambda value: f"{value:.3f}",
        x_label=f"{one.key} (logarithmic)" if is_log else one.key,
        x_format=(lambda power: short(float(f"{10**power:.0e}"))) if is_log else short,
    )
    return one.key, chart, "Blue: the best. Faint: the last loss of what was ended early."


def _ways(rows: list[dict[str, Any]], best: int | None) -> Markup:
    """The held-out loss of every trial over the share of its tokens."""
    shown = [row for row in rows if row["evaluations"]]
    lines = [
        Series(
            f"trial {row['number']}" if row["number"] == best else "",
            [(100 * share, loss) for share, loss in zip(row["shares"], row["evaluations"], strict=True)],
            _look(row, best),
        )
        for row in sorted(shown, key=lambda row: row["number"] == best)
    ]
    return line_chart(
        lines,
        title="trials",
        description="Held-out loss of each trial after a quarter of its tokens, a half and so on",
        y_format=lambda value: f"{value:.3f}",
        x_label="% of the tokens",
    )


def _look(row: dict[str, Any], best: int | None) -> str:
    return "eval" if row["number"] == best else "plain" if row["eval_loss"] is not None else "faint"


def _grouped(
    rows: list[dict[str, Any]], key: str, place: Callable[[float], float], best: int | None
) -> dict[str, list[tuple[float, float]]]:
    """Value and loss of each trial that was scored, by its look; of one that was ended early its last loss."""
    points: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if key in row["values"] and row["evaluations"]:
            loss = row["evaluations"][-1] if row["eval_loss"] is None else row["eval_loss"]
            points.setdefault(_look(row, best), []).append((place(row["values"][key]), loss))
    return points
