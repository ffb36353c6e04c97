"""The report in a notebook: in a few lines (verdict, losses before and after, one text of each), or whole."""

from __future__ import annotations

import html
from pathlib import Path

from tunesmith.redact import redact, visible
from tunesmith.report.artefacts import read_artefacts
from tunesmith.report.samples import sample_groups
from tunesmith.report.verdict import judge
from tunesmith.run.directory import RunDir

NUM_SAMPLES = 2
INLINE_HEIGHT = 720
"""Pixels of a whole report in a notebook; it scrolls within."""


class ReportPath(type(Path())):  # type: ignore[misc]  # Path itself cannot be derived from before Python 3.12
    """The path of a report.html, which a notebook shows as the page that it names."""

    def _repr_html_(self) -> str:
        page = html.escape(self.read_text(encoding="utf-8"))
        style = f"width:100%;height:{INLINE_HEIGHT}px;border:0"
        return f'<iframe srcdoc="{page}" style="{style}" sandbox title="Report"></iframe>'


def short_report(run_dir: RunDir) -> str:
    """HTML without scripts and styles of its own; parts that a run does not have yet are left out."""
    found = read_artefacts(run_dir)
    lines = [
        f"<p><strong>{_text(run_dir.path.name)}</strong>: {_text(judge(found.result, found.compare).sentence)}</p>"
    ]
    if found.result is not None:
        rows = [
            ("held-out loss", found.result.eval_loss_base, found.result.eval_loss),
            ("perplexity", found.result.eval_perplexity_base, found.result.eval_perplexity),
        ]
        cells = "".join(
            f"<tr><td>{name}</td><td>{base:.4g}</td><td>{tuned:.4g}</td></tr>"
            for name, base, tuned in rows
            if base is not None and tuned is not None
        )
        if cells:
            lines.append(f"<table><tr><th></th><th>base</th><th>tuned</th></tr>{cells}</table>")
        lines.append(f"<p>{found.result.steps:,} steps in {found.result.total_seconds:,.0f} s</p>")
    for group in sample_groups(found.compare)[:1]:
        for view in group.shown[:NUM_SAMPLES]:
            for side in view.times[0]:
                text = view.prompt + "".join(piece.text for piece in side.pieces)
                lines.append(f"<p><em>{_text(side.name)}</em> {_text(' '.join(text.split()))}</p>")
    return "<div>" + "".join(lines) + "</div>"


def _text(text: str) -> str:
    return html.escape(redact(visible(text)))
