"""What a sweep found in a terminal: its trials, the best first; the losses of growing learning rates."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from tunesmith.sweep.lr_find import Found
from tunesmith.sweep.outcome import ranked, rows_of
from tunesmith.sweep.study import Study

SHOWN = 15
_BAR = 40


def print_trials(console: Console, study: Study) -> None:
    """The best trials, and what mattered."""
    table = Table(box=None, pad_edge=False)
    table.add_column("trial", justify="right")
    table.add_column("held-out loss", justify="right")
    for one in study.space:
        table.add_column(one.key.removeprefix("train."), justify="right")
    table.add_column("state")
    rows = ranked(rows_of(study))
    for row in rows[:SHOWN]:
        loss = "" if row["eval_loss"] is None else f"{row['eval_loss']:.4f}"
        values = [row["values"].get(one.key, "") for one in study.space]
        shown = [f"{value:.3g}" if isinstance(value, float) else str(value) for value in values]
        table.add_row(str(row["number"]), loss, *shown, row["state"])
    console.print(table)
    if len(rows) > SHOWN:
        console.print(f"and {len(rows) - SHOWN} more in trials.json")
    importances = study.importances()
    if importances:
        shares = ", ".join(f"{key} {share:.0%}" for key, share in importances.items())
        console.print(f"what mattered: {shares}", highlight=False)


def rate_lines(found: Found) -> Iterator[str]:
    """The smoothed loss at every other rate, the rate that is proposed, and why."""
    low, high = min(found.smooth), max(found.smooth)
    for number in range(0, len(found.rates), 2):
        loss = found.smooth[number]
        bar = "█" * round(_BAR * (loss - low) / ((high - low) or 1))
        yield f"rate {found.rates[number]:7.1e}  loss {loss:6.3f}  {bar}".rstrip()
    best = found.rates[found.lowest]
    yield (
        f"{len(found.rates)} steps of {found.num_tokens:,} tokens together, {found.seconds:,.0f} s"
        + (f"; ran away at {found.rates[-1]:.1e}" if found.ran_away else "")
    )
    yield f"train.learning_rate: {found.suggestion:g}   (a tenth of {best:.1e}, where the smoothed loss was lowest)"
    if found.method != "full":
        yield (
            f"One step a rate flatters high rates for {found.method}, which begins at zero: train.learning_rate: auto "
            "is the safer choice, and this test says where it runs away."
        )
