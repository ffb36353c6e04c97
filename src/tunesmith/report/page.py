"""The page: what every section shows, put into the template as one file that asks for nothing from outside."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tunesmith import __version__
from tunesmith.redact import redact
from tunesmith.report import figures, samples, tables
from tunesmith.report.artefacts import Artefacts
from tunesmith.report.first import First, read_first
from tunesmith.report.verdict import Verdict, judge
from tunesmith.run.artefacts import Comparison, DataAccount, GroupLosses
from tunesmith.run.places import Places

HERE = Path(__file__).parent
_UNUSABLE = (ValueError, ArithmeticError, LookupError)
"""What numbers of an impossible size do to arithmetic and pictures."""


def render(artefacts: Artefacts) -> str:
    """The report as HTML. The template escapes every text; the policy in its head forbids all requests and scripts."""
    problems = list(artefacts.problems)
    context = _sections(artefacts, problems)
    style = (HERE / "style.css").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=partial(_fit_to_show, artefacts.places),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("page.html.jinja").render(
        context,
        name=artefacts.name,
        version=__version__,
        recipe_text=artefacts.recipe_text,
        log=artefacts.log,
        problems=problems,
        style=Markup(style),
        policy=content_policy(style),
    )
    return page.encode("utf-8", "replace").decode()  # half a surrogate pair is legal in JSON, but not in a file


def _fit_to_show(places: Places, value: Any) -> Any:
    """What the template does to each value before it escapes it: no secrets, no places of this machine."""
    return places.by_name(redact(value)) if type(value) is str else value


def content_policy(style: str) -> str:
    """Nothing may be loaded or run; of styles only the page's own, by its hash."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def _sections(found: Artefacts, problems: list[str]) -> dict[str, object]:
    """What each section shows. One that cannot be drawn is left out and named in `problems`."""

    def guard(source: str, build: Callable[[], object], empty: object) -> object:
        try:
            return build()
        except _UNUSABLE as error:
            problems.append(f"{source}: a part cannot be shown ({type(error).__name__}: {error}).")
            return empty

    compare, data, plan = found.compare, found.data, found.plan

    def of_data(build: Callable[[DataAccount], object], empty: object) -> object:
        return guard("data.json", partial(build, data), empty) if data is not None else empty

    unjudged = Verdict("unmeasured", "The results of this run could not be read.", ())
    return {
        "trained": found.finished,
        "verdict": guard("result.json, compare.json", partial(judge, found.result, compare, data), unjudged),
        "first": guard("result.json, compare.json", partial(read_first, found), First()),
        "subtitle": guard("plan.json", partial(subtitle, found), ""),
        "progress": guard("status.json", partial(progress, found), ""),
        "tiles": guard("result.json", partial(tables.tiles, found), []),
        "groups": guard("compare.json", partial(samples.sample_groups, compare), []),
        "written": samples.while_it_trained(found.samples),
        "decoding": guard("compare.json", partial(decoding, compare), ""),
        "notes": compare.notes if compare is not None else (),
        "scores": guard("compare.json", partial(tables.score_rows, compare), []),
        "telling": compare.telling if compare is not None else (),
        "slices": guard("compare.json", partial(groups, compare, "slices"), None),
        "general": guard("compare.json", partial(groups, compare, "general"), None),
        "loss": guard("metrics.jsonl", partial(figures.loss_figure, found.metrics, found.result), None),
        "curves": guard("metrics.jsonl", partial(figures.curve_figures, found.metrics), []),
        "forecast": guard("plan.json", partial(tables.forecast_rows, plan), []),
        "plan": guard("plan.json", partial(tables.plan_rows, plan), []),
        "data": of_data(tables.data_rows, []),
        "splits": of_data(tables.split_rows, []),
        "lengths": of_data(figures.length_figure, None),
        "data_notes": of_data(lambda data: data.notes, ()),
        "findings": of_data(partial(tables.findings, fine=False), []),
        "fine": of_data(partial(tables.findings, fine=True), []),
        "facts": guard("compare.json", partial(tables.fact_rows, found), []),
    }


@dataclass(frozen=True)
class Groups:
    """The loss by slice of the data, or by kind of general text."""

    name: str
    figure: figures.Figure | None
    rows: list[tuple[str, ...]]


def groups(comparison: Comparison | None, key: Literal["slices", "general"]) -> Groups | None:
    """None when compare.json has no rows of it."""
    found = GroupLosses(rows=()) if comparison is None else getattr(comparison, key)
    if not found.rows:
        return None
    name = str(found.column or "slice") if key == "slices" else "kind of general text"
    heading = f"What it learned, by {name}" if key == "slices" else "What it forgot"
    return Groups(name, figures.change_figure(found.rows, heading, name), tables.group_rows(found.rows))


def subtitle(found: Artefacts) -> str:
    """`smollm2-135m, full fine-tuning on shows.csv`."""
    if found.recipe is None:
        return ""
    recipe = found.recipe
    method = recipe.train.method if found.plan is None else found.plan.method
    path = recipe.data.path
    names = [path] if isinstance(path, str) else [source.path for source in path]
    shown = ", ".join(name if name.startswith("hub:") else Path(name).name for name in names)
    kind = {"full": "full fine-tuning", "lora": "LoRA", "dora": "DoRA", "qlora": "QLoRA"}.get(method, method)
    return f"{recipe.model.name}, {kind} on {shown}"


def progress(found: Artefacts) -> str:
    """How far a run that is not finished has come."""
    if found.finished:
        return ""
    steps = max((line.step for line in found.metrics), default=0)
    total = next((known.num_steps for known in (found.plan, found.status) if known is not None), None)
    state = found.status.state if found.status is not None else None
    done = f"Step {steps:,} of {total:,}" if total else f"Step {steps:,}"
    return f"{done}; {state} when this was written." if state else f"{done} when this was written."


def decoding(comparison: Comparison | None) -> str:
    """The settings that both models shared."""
    if comparison is None:
        return ""
    asked = comparison.settings
    return (
        f"temperature {asked.temperature:g}, top-p {asked.top_p:g}, at most {asked.max_new_tokens} tokens, "
        f"seed {asked.seed}"
    )
