"""An audit for people: a table for the terminal, and one HTML page that works offline."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

from tunesmith.audit.examples import Example
from tunesmith.audit.findings import AuditReport
from tunesmith.redact import visible
from tunesmith.show.verdicts import found, verdicts

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

_BAR = 40


def render(report: AuditReport) -> RenderableType:
    """Findings, lengths and examples for a terminal."""
    from rich.console import Group
    from rich.text import Text

    table = verdicts(report.findings, header=True)
    examples = [part for example in report.examples for part in (Text(), render_example(example))]
    return Group(table, Text(), Text(_histogram(report)), *examples, Text(), Text(summary(report), "bold"))


def summary(report: AuditReport) -> str:
    """`0 block, 2 warn, 16 fine (0.4 s)`."""
    num_fine = len(report.findings) - len(report.blocks) - len(report.warnings)
    return f"{len(report.blocks)} block, {len(report.warnings)} warn, {num_fine} fine ({report.seconds:.1f} s)"


def _histogram(report: AuditReport) -> str:
    """A bar a bin; empty bins at both ends are left out, and those between are one line."""
    edges, counts = report.histogram.edges, report.histogram.counts
    filled = [place for place, count in enumerate(counts) if count]
    if not filled:
        return ""
    most, width = max(counts), len(str(edges[-1]))
    lines = ["training rows by length in tokens"]
    after = filled[0]
    for place in filled:
        if place > after:
            lines.append(f"{edges[after]:>{width}}-{edges[place] - 1:<{width}} 0")
        bar = "█" * round(_BAR * counts[place] / most) or "▏"
        after = place + 1
        lines.append(f"{edges[place]:>{width}}-{edges[after] - 1:<{width}} {bar} {counts[place]:,}")
    return "\n".join(lines)


def page(report: AuditReport, title: str = "data") -> str:
    """The audit as one HTML page: no script, nothing loaded from elsewhere, all text escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    style_hash = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    return environment.from_string(_PAGE).render(
        report=report,
        title=visible(title),
        style=_STYLE,
        policy=f"default-src 'none'; style-src 'sha256-{style_hash}'; base-uri 'none'; form-action 'none'",
        summary=summary(report),
        told=lambda finding: visible(found(finding)),
        histogram=_histogram(report),
    )


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1b1b;
  background: #fff; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid #ddd; }
.blocks { color: #a40000; font-weight: bold; } .warns { color: #8a5a00; font-weight: bold; } .fine { color: #1d6b32; }
.example { white-space: pre-wrap; overflow-wrap: anywhere; font-family: ui-monospace, monospace; font-size: 13px;
  border: 1px solid #ddd; padding: .8rem; }
.learned { background: #d9f2df; border-bottom: 2px solid #1d6b32; } .read { background: #eee; color: #555; }
.control { outline: 1px solid #888; } .left-out { color: #8a5a00; font-weight: bold; }
pre { font-size: 12px; line-height: 1.2; overflow-x: auto; }
@media (prefers-color-scheme: dark) { body { background: #16181c; color: #e6e6e6; }
  td, th, .example { border-color: #3a3d42; } .learned { background: #173d24; }
  .read { background: #2a2d32; color: #aaa; }
  .blocks { color: #ff8a80; } .warns, .left-out { color: #f0c060; } .fine { color: #7fd197; } }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Audit of {{ title }}</title>
<style>{{ style | safe }}</style>
</head>
<body>
<h1>Audit of {{ title }}</h1>
<p>{{ summary }}. {{ "{:,}".format(report.num_sampled) }} of {{ "{:,}".format(report.num_documents) }} documents
read.</p>
<table>
<tr><th>#</th><th>check</th><th>verdict</th><th>found</th></tr>
{% for finding in report.findings %}
<tr><td>{{ finding.number }}</td><td>{{ finding.name }}</td><td class="{{ finding.status }}">{{ finding.status }}</td>
<td>{{ told(finding) }}</td></tr>
{% endfor %}
</table>
<h2>Lengths</h2>
<pre>{{ histogram }}</pre>
<h2>Examples</h2>
<p><span class="learned">learned</span> <span class="read">only read</span>
<span class="control">control token</span>; hold the pointer over a token for its ids.</p>
{% for example in report.examples %}
<h3>{{ example.row }}: {{ example.num_supervised }} of {{ example.num_tokens }} tokens are learned</h3>
<div class="example">
{%- for token in example.tokens -%}
{%- if example.omitted and loop.index0 == example.omitted_at -%}
<span class="left-out"> … {{ example.omitted }} tokens … </span>
{%- endif -%}
<span class="{{ 'learned' if token.supervised else 'read' }}{{ ' control' if token.is_control }}"
 title="{{ token.ids | join(', ') }}">{{ token.text }}</span>
{%- endfor -%}
</div>
{% endfor %}
</body>
</html>
"""


def render_example(example: Example) -> Text:
    """For a terminal: what is learned in green, what is only read dim and in ⟦ ⟧, which shows without colour too."""
    from rich.text import Text

    left_out = f", {example.omitted} in the middle not shown" if example.omitted else ""
    text = Text(
        f"{example.row}: {example.num_supervised} of {example.num_tokens} tokens are learned{left_out}\n", "bold"
    )
    for place, token in enumerate(example.tokens):
        if example.omitted and place == example.omitted_at:
            text.append(" … ", "bold yellow")
        opens = not token.supervised and (place == 0 or example.tokens[place - 1].supervised)
        closes = not token.supervised and (place + 1 == len(example.tokens) or example.tokens[place + 1].supervised)
        shown = ("⟦" if opens else "") + token.text + ("⟧" if closes else "")
        text.append(shown, ("green" if token.supervised else "dim") + (" reverse" if token.is_control else ""))
    return text
