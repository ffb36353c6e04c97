"""What a curve leaves: curve.json after each share, and curve.html at the end."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tunesmith.disk import finite, write_text
from tunesmith.report.charts import Point as At
from tunesmith.report.charts import Series, line_chart
from tunesmith.report.numbers import short
from tunesmith.report.page import content_policy
from tunesmith.sweep.curve.forecast import band, law_of
from tunesmith.sweep.curve.values import Curve

PAGE = "curve.html"
NUM_DRAWN = 40


def read_curve(folder: Path) -> Curve | None:
    """What is known of a folder's curve; None before its first share. Raises RunError for a damaged curve.json."""
    path = folder / Curve.FILE
    if not path.exists():
        return None
    return Curve.parse(json.loads(path.read_text(encoding="utf-8")), str(path))


def write_curve(folder: Path, curve: Curve) -> None:
    """curve.json, and the page as soon as there is a forecast."""
    write_text(folder / Curve.FILE, json.dumps(finite(curve.to_json()), indent=2, ensure_ascii=False) + "\n")
    if curve.forecasts:
        write_text(folder / PAGE, _page(folder, curve))


def _page(folder: Path, curve: Curve) -> str:
    here = Path(__file__).parent
    style = (here.parents[1] / "report" / "style.css").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(here), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html.jinja").render(
        name=folder.name,
        curve=curve,
        chart=_chart(curve),
        style=Markup(style),
        policy=content_policy(style),
    )


def _chart(curve: Curve) -> Markup:
    """Loss over rows on a logarithmic scale: what was seen, the middle of the forecast, and its interval."""
    law = law_of(curve)
    first, last = min(point.num_rows for point in curve.points), curve.forecasts[-1].num_rows
    sizes = np.geomspace(first, last, NUM_DRAWN).tolist()
    bands = [band(law.at(size) + law.luck(0)) for size in sizes]
    places = [math.log10(size) for size in sizes]

    def seen(model: str) -> list[At]:
        return [(math.log10(point.num_rows), point.eval_loss) for point in curve.points_of(model)]

    lines = [
        Series("", [(at, one.low) for at, one in zip(places, bands, strict=True)], "faint"),
        Series("", [(at, one.high) for at, one in zip(places, bands, strict=True)], "faint"),
        Series("forecast", [(at, one.value) for at, one in zip(places, bands, strict=True)], "plain"),
        Series("", seen(curve.model), "eval", joined=False),
    ]
    if curve.bigger is not None:
        ahead = [(math.log10(one.num_rows), one.eval_loss.value) for one in curve.bigger.forecasts]
        begun = seen(curve.bigger.name)
        lines += [Series("bigger", [*begun, *ahead], "base"), Series("", begun, "base", joined=False)]
    return line_chart(
        lines,
        title="Held-out loss over training rows",
        description="Held-out loss of each share that was trained, and the forecast with its interval",
        y_format=lambda value: f"{value:.2f}",
        x_label="training rows (logarithmic)",
        x_format=lambda power: short(float(f"{10**power:.1e}")),
    )
