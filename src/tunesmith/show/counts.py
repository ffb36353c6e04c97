"""The same run on 1, 2, 4, ... GPUs for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from rich.console import Console

    from tunesmith.plan.quote import Quote

COLUMNS = (
    "GPUs",
    "weights",
    "sharding",
    "each holds",
    "fit",
    "tokens each",
    "a step",
    "waits",
    "efficiency",
    "time",
    "cost",
)


def print_counts(quotes: Sequence[Quote], console: Console) -> None:
    """A row for each number; below, what bounds the last."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("weights", "sharding", "fit") else "right", no_wrap=True)
    for quote in quotes:
        table.add_row(*cells(quote))
    console.print(table, highlight=False, markup=False)
    for line in explained(quotes):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def cells(quote: Quote) -> list[str]:
    """One row, under COLUMNS."""
    forecast, fits = quote.forecast, quote.found.fit != "no"
    time, tokens = forecast.step_time, forecast.step_tokens
    choice = quote.found.choice
    row = [f"{quote.num_processes:,}", choice.dtype, choice.sharding, format_bytes(forecast.memory.peak_bytes)]
    row += [quote.found.fit, f"{time.exchange.own(tokens):,.0f}"]
    if not fits:
        return [*row, "-", "-", "-", "-", "-"]
    waits = time.waited_seconds(tokens) / forecast.step_seconds
    row += [step(forecast.step_seconds), f"{waits:.0%}", "-" if quote.efficiency is None else f"{quote.efficiency:.0%}"]
    return [*row, format_seconds(forecast.time.total_seconds), "no price" if quote.cost is None else money(quote.cost)]


def explained(quotes: Sequence[Quote]) -> list[str]:
    """What the columns mean, and what the steps of the largest number wait for."""
    base = next((quote for quote in quotes if quote.found.fit != "no"), None)
    if base is None:
        return []
    first = f"{base.num_processes} GPU{'' if base.num_processes == 1 else 's'}"
    lines = [
        f"a step: of {base.forecast.step_tokens:,.0f} tokens over all GPUs, as train.tokens_per_step fixes it; waits: "
        f"what of it exchanges take beside arithmetic; efficiency: speed of a GPU, {first} = 100%"
    ]
    last = quotes[-1]
    time, tokens = last.forecast.step_time, last.forecast.step_tokens
    if last.found.fit != "no" and time.is_launch_bound(tokens):
        each = f"{time.exchange.own(tokens):,.0f}"
        lines.append(f"{last.num_processes} GPUs wait for their launches: {each} tokens each are too few to be busy")
    return lines


def most_useful(quotes: Sequence[Quote]) -> list[Quote]:
    """Of each kind of GPU the number that is cheapest and the one that is fastest; in the order given."""
    kinds: dict[str, list[Quote]] = {}
    for quote in quotes:
        kinds.setdefault(quote.target.name, []).append(quote)
    kept: set[tuple[str, int]] = set()
    for name, of_kind in kinds.items():
        fastest = min(of_kind, key=lambda quote: (quote.found.fit == "no", quote.forecast.time.total_seconds))
        kept |= {(name, of_kind[0].num_processes), (name, fastest.num_processes)}
    return [quote for quote in quotes if (quote.target.name, quote.num_processes) in kept]


def step(seconds: float) -> str:
    """Of a step."""
    return f"{seconds * 1000:,.0f} ms" if seconds < 10 else format_seconds(seconds)


def money(cost: float) -> str:
    """Runs of less than a cent can still be told apart."""
    return f"{cost:,.2f}" if cost >= 1 else f"{cost:.3f}"
