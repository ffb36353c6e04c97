"""The live page: what a browser shows of one run or of several. Every text is escaped by the template.

A page is made of parts, each in an element of its own; the script asks for those that changed and puts them there.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from tunesmith import __version__
from tunesmith.redact import redact, visible
from tunesmith.report.figures import curve_figures, loss_figure
from tunesmith.report.page import HERE as REPORT
from tunesmith.units import format_seconds
from tunesmith.watch.device import loads
from tunesmith.watch.facts import facts, progress
from tunesmith.watch.view import View
from tunesmith.web import content_policy

HERE = Path(__file__).parent
LOG_LINES = 60
SEEN_CHARACTERS = 12
"""Of a part's hash, by which a browser says what it has."""


@dataclass(frozen=True)
class Page:
    """Parts of a page in HTML, by the element that holds each."""

    title: str
    parts: dict[str, str]
    is_alive: bool
    """Whether there is more to come soon."""
    template: str

    def whole(self) -> str:
        """As it is opened first."""
        parts = {name: Markup(part) for name, part in self.parts.items()}
        return _template("page.html.jinja").render(
            title=self.title,
            parts=parts,
            kind=self.template,
            seen={name: seen(part) for name, part in self.parts.items()},
            style=Markup(style()),
            script=Markup(script()),
            version=__version__,
        )

    def changed(self, known: set[str]) -> dict[str, object]:
        """What a browser that has the parts `known` still lacks, each with its hash."""
        parts = {name: [seen(part), part] for name, part in self.parts.items() if seen(part) not in known}
        return {"title": self.title, "alive": self.is_alive, "parts": parts}


def run_page(view: View, price: float | None, back: bool) -> Page:
    """One run. back: it is one of several, which a link leads to."""
    found, on_gpu = view.standing, view.plan is not None and view.plan.device == "cuda"
    lines = [*view.held_out.lines, *view.train.lines]
    context = {
        "view": view,
        "found": found,
        "back": back,
        "percent": round(100 * min(1.0, found.step / max(1, found.num_steps or found.step))),
        "progress": progress(view),
        "facts": list(facts(view, price)),
        "devices": [load.describe() for load in loads(found, on_gpu)],
        "loss": loss_figure(lines, view.result),
        "curves": curve_figures(lines),
        "log": "\n".join(visible(line) for line in view.log[-LOG_LINES:]),
    }
    names = ("head", "numbers", "loss", "texts", "curves", "log")
    return Page(_title(view), _parts("run.html.jinja", names, context), found.is_alive, "run")


def runs_page(views: dict[str, View]) -> Page:
    """Several runs, a line each; the key of a run is its name in the address."""
    rows = [
        (f"/run/{quote(key, safe='')}", view, _left(view), round(100 * _share(view))) for key, view in views.items()
    ]
    alive = [view for view in views.values() if view.standing.is_alive]
    title = f"{len(alive)} of {len(views)} runs alive"
    return Page(title, _parts("runs.html.jinja", ("head", "runs"), {"rows": rows, "title": title}), bool(alive), "runs")


def _title(view: View) -> str:
    found = view.standing
    share = f" {_share(view):.0%}" if found.is_alive else ""
    return f"{view.name}: {found.state}{share}"


def _share(view: View) -> float:
    found = view.standing
    return min(1.0, found.step / max(1, found.num_steps or found.step))


def _left(view: View) -> str:
    left = view.standing.seconds_left
    return f"{format_seconds(left)} left" if left is not None else view.standing.why


def _parts(name: str, blocks: tuple[str, ...], context: dict[str, object]) -> dict[str, str]:
    template = _template(name)
    return {
        block: "".join(template.blocks[block](template.new_context(context))).encode("utf-8", "replace").decode()
        for block in blocks
    }


def seen(part: str) -> str:
    """A short hash of a part, by which the browser knows what it shows already."""
    return hashlib.sha256(part.encode()).hexdigest()[:SEEN_CHARACTERS]


def _plain(value: object) -> object:
    """What the template does to each value before it escapes it: no secrets."""
    return redact(value) if type(value) is str else value


@functools.cache
def _template(name: str) -> Template:
    environment = Environment(
        loader=FileSystemLoader([HERE, REPORT]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_plain,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


@functools.cache
def style() -> str:
    """That of a report, and what only a live page has."""
    return "".join((folder / "style.css").read_text(encoding="utf-8") for folder in (REPORT, HERE))


@functools.cache
def script() -> str:
    """The page's JavaScript."""
    return (HERE / "page.js").read_text(encoding="utf-8")


@functools.cache
def policy() -> str:
    """The page's own style and script, and questions to its own server."""
    return content_policy(style(), script())
