"""The report in short, for a terminal: verdict, facts, scores and a few samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunesmith.redact import redact, visible
from tunesmith.report.artefacts import read_artefacts
from tunesmith.report.numbers import MISSING
from tunesmith.report.samples import sample_groups
from tunesmith.report.tables import SIDES, findings, score_rows
from tunesmith.report.verdict import judge
from tunesmith.run.directory import RunDir
from tunesmith.show.verdicts import COLOURS, bullets

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

NUM_SAMPLES = 3


def print_summary(run_dir: RunDir, console: Console) -> None:
    """Print what came of a run. Parts that are missing are left out."""
    from rich.padding import Padding
    from rich.table import Table

    found = read_artefacts(run_dir)
    verdict = judge(found.result, found.compare, found.data)
    console.print(plain(verdict.sentence, "bold"))
    audited = findings(found.data, fine=False) if found.data is not None else ()
    for line in (*bullets(verdict.facts), *bullets(audited, subject="data")):
        console.print(line)
    rows = score_rows(found.compare)
    if rows:
        table = Table("score", *SIDES, "reading", box=None, pad_edge=False)
        for row in rows:
            values = (row.values[side].replace(MISSING, "-") for side in SIDES)
            table.add_row(row.title, *values, plain(row.reading, COLOURS[row.level]))
        console.print(Padding(table, (1, 0)))
    for group in sample_groups(found.compare)[:1]:
        for view in group.shown[:NUM_SAMPLES]:
            for side in view.times[0]:
                text = view.prompt + "".join(piece.text for piece in side.pieces)
                console.print(plain(f"{side.name:>5}  {' '.join(text.split())}"))
    for note in found.compare.notes if found.compare is not None else ():
        console.print(plain(note, "yellow"))


def plain(text: str, style: str = "") -> Text:
    """Text that is printed as it is: no markup, no control characters, no secrets."""
    from rich.text import Text

    return Text(redact(visible(text)), style=style)
