"""The run directory -> report.html: one file that works offline, in light and dark, on a phone and on paper.

    artefacts.py   what the run directory holds; every part may be missing; agree.py: one value for one thing
    first.py       what a reader wants first: a quote, a plain sentence, what it took, what to do next
    verdict.py     one sentence with numbers, and the facts behind it
    figures.py     which charts; charts.py draws them as SVG
    samples.py     texts side by side, copied spans marked
    tables.py      numbers in rows; numbers.py writes them
    page.py        all of it into page.html.jinja and style.css
    short.py       a few lines of it for a notebook

Reads nothing but the run directory and imports no torch.
"""

from __future__ import annotations

from pathlib import Path

from tunesmith.disk import write_text
from tunesmith.run.directory import REPORT, RunDir


def write_report(run_dir: RunDir) -> Path:
    """Write report.html from whatever the run directory holds, and return its path."""
    from tunesmith.report.artefacts import read_artefacts
    from tunesmith.report.page import render

    path = run_dir.file(REPORT)
    write_text(path, render(read_artefacts(run_dir)))
    return path


__all__ = ["write_report"]
