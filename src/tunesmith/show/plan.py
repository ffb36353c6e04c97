"""A plan report for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunesmith.machine.gpus import GIB
from tunesmith.plan.counts import beaten
from tunesmith.plan.decide import describe
from tunesmith.recipe import LoraSection, Recipe
from tunesmith.run.artefacts import ASKED, Plan
from tunesmith.show.counts import money, most_useful, print_counts
from tunesmith.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from tunesmith.machine.gpus import Gpu
    from tunesmith.machine.prices import Prices
    from tunesmith.plan.quote import PlanReport, Quote

HOUR, DAY = 3600.0, 86400.0
STYLES = {"fits": "green", "tight": "yellow", "no": "red"}


def print_report(report: PlanReport, console: Console) -> None:
    """What is planned, then one device in detail or a table of devices."""
    say = _Say(console)
    say(f"model   {report.shape.name}, {report.shape.num_parameters / 1e6:,.1f}M parameters ({report.shape.origin})")
    say(f"data    {report.workload.origin}")
    for note in report.notes:
        say(f"note    {note}")
    if len(report.quotes) == 1:
        _print_one(report.quotes[0], report, say)
    else:
        _print_table(report, console)
    if any(quote.target.gpu is not None for quote in report.quotes):
        say("GPU times are computed from data-sheet rates; they were not measured on a GPU.")
    if any(quote.num_processes > 1 for quote in report.quotes):
        say("Exchanges between processes are computed from nominal bandwidths; they were not measured.")


class _Say:
    """Prints a line without markup or wrapping surprises."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def __call__(self, text: str, style: str | None = None) -> None:
        self.console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def _print_one(quote: Quote, report: PlanReport, say: _Say) -> None:
    from rich.table import Table

    memory, time, disk = quote.forecast.memory, quote.forecast.time, quote.forecast.disk
    network = quote.target.network
    joined = "" if network is None else f" each, joined by {network.name}"
    say(f"device  {quote.label}, {format_bytes(quote.target.capacity_bytes)} to give{joined}")
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in quote.plan.decided().items():
        table.add_row(f"  {name}", _plain(value), _reason(name, quote.plan, report.recipe))
    say("decided")
    say.console.print(table, markup=False, highlight=False)
    parts = ", ".join(f"{name} {format_bytes(size)}" for name, size in memory.components.items() if size > 5e6)
    seen = "nvidia-smi will show" if memory.device == "cuda" else "the process will take"
    say(f"memory  needs at least {format_bytes(memory.allocated_bytes)}: {parts}")
    say(f"        {seen} {format_bytes(memory.peak_bytes)}: {_FIT[quote.found.fit]}", STYLES[quote.found.fit])
    for found in quote.instead:
        say(f"        instead: {describe(found)}, {format_bytes(found.memory.peak_bytes)}")
    if quote.more is not None:
        each = format_bytes(quote.more.memory.peak_bytes)
        say(f"        or {quote.more.num_processes} of these GPUs in one machine: {describe(quote.more)}, {each} each")
    if quote.larger is not None:
        gpu, found = quote.larger
        say(f"        or a larger GPU, from {gpu.name} on: {describe(found)}, {format_bytes(found.memory.peak_bytes)}")
    say(
        f"time    {format_seconds(time.total_seconds)}: training {format_seconds(time.train_seconds)} "
        f"({time.tokens_per_second:,.0f} tokens/s), {time.num_evaluations} evaluations "
        f"{format_seconds(time.eval_seconds)}, saving {format_seconds(time.save_seconds)}, loading "
        f"{format_seconds(time.load_seconds)} ({time.origin})"
    )
    say(
        f"disk    {format_bytes(disk.total_bytes)}: {disk.num_checkpoints} checkpoints of "
        f"{format_bytes(disk.checkpoint_bytes)}, model {format_bytes(disk.model_bytes)}"
        + (f", best weights {format_bytes(disk.best_bytes)}" if disk.best_bytes else "")
        + (f"; {format_bytes(disk.free_bytes)} free" if disk.free_bytes is not None else "")
    )
    if disk.problem is not None:
        say(f"        {disk.problem}", "red")
    if quote.cost is not None:
        how = f" ({_typical(report.prices)})" if quote.price_is_typical else ""
        say(f"cost    {money(quote.cost)} at {quote.price:g} an hour{how}")
    elif quote.target.gpu is not None:
        say(f"cost    no price known: --price {quote.target.gpu.key}=X")
    if report.fewer:
        print_counts(report.fewer, say.console)


def _reason(name: str, plan: Plan, recipe: Recipe) -> str:
    """Why a value was decided so. What a recipe says is told from what it left to a default."""
    reason = plan.reasons.get(name, "")
    written = recipe.model.model_fields_set | recipe.train.model_fields_set
    written |= {f"eval_{key}" for key in recipe.eval.model_fields_set}
    written |= {f"save_{key}" for key in recipe.save.model_fields_set}
    return "the default" if reason == ASKED and name not in written else reason


def _plain(value: object) -> str:
    if isinstance(value, LoraSection):
        target = value.target if isinstance(value.target, str) else ", ".join(value.target)
        return f"rank {value.rank}, alpha {value.alpha:g}, {target}"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


_FIT = {"fits": "fits", "tight": "tight, it may run out", "no": "does not fit"}


def _print_table(report: PlanReport, console: Console) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("GPU", "fit"):
        table.add_column(name)
    for name in ("peak", "of", "time", "cost"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("weights", "how"):
        table.add_column(name)
    for quote in most_useful(report.quotes):
        fits = quote.found.fit != "no"
        cells = [
            quote.label,
            f"[{STYLES[quote.found.fit]}]{quote.found.fit}[/]",
            format_bytes(quote.forecast.memory.peak_bytes),
            format_bytes(quote.target.capacity_bytes),
            format_seconds(quote.forecast.time.total_seconds) if fits else "-",
        ]
        cells.append("-" if not fits else "no price" if quote.cost is None else money(quote.cost))
        cells.append(quote.found.choice.dtype if fits else "-")
        table.add_row(*cells, _how(quote))
    console.print(table, highlight=False)
    say = _Say(console)
    for seconds, within in ((HOUR, "an hour"), (DAY, "a day")):
        best = report.cheapest(seconds)
        if best is not None and best.cost is not None:
            took = format_seconds(best.forecast.time.total_seconds)
            say(f"cheapest that finishes within {within}: {best.label}, {money(best.cost)} for {took}")
            break
    for many, one in beaten(report.quotes):
        say(
            f"{many.label} beats {one.label} for this recipe: {format_seconds(many.forecast.time.total_seconds)} for "
            f"{money(many.cost or 0.0)} instead of {format_seconds(one.forecast.time.total_seconds)} for "
            f"{money(one.cost or 0.0)}"
        )
    if any(quote.price_is_typical for quote in report.quotes):
        say(f"Costs are computed from {_typical(report.prices)}.")
    unpriced = [quote.target.gpu.key for quote in report.quotes if quote.cost is None and quote.target.gpu is not None]
    if unpriced:
        say(f"no price known: --price NAME=X for {', '.join(dict.fromkeys(unpriced))}")


def print_gpus(rows: Sequence[Gpu], prices: Prices, console: Console) -> None:
    """The table of GPUs."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("--gpu", no_wrap=True)
    table.add_column("nvidia-smi prints")  # alone gives way where the terminal is narrow
    for name in ("GiB", "TFLOP/s", "GB/s", "an hour"):
        table.add_column(name, justify="right", no_wrap=True)
    for gpu in rows:
        price = prices.of(gpu.key)
        table.add_row(
            gpu.key,
            gpu.name,
            f"{gpu.memory_bytes / GIB:.1f}",
            f"{gpu.matrix / 1e12:,.0f}" if gpu.bf16 else "no bf16",
            f"{gpu.bandwidth / 1e9:,.0f}",
            "-" if price is None else f"{price:.2f}",
        )
    console.print(table, highlight=False, markup=False)
    _Say(console)(
        f"An hour: {_typical(prices)}. Where no dated source was found there is no price. Rates are in bf16, "
        "those of the makers' data sheets. --json names every source."
    )


def _typical(prices: Prices) -> str:
    return f"typical prices of {prices.date} in {prices.currency}; look yours up and give --price NAME=X"


def _how(quote: Quote) -> str:
    choice = quote.found.choice
    if quote.found.fit != "no":
        parts = [choice.method, choice.precision, f"{choice.micro_batch_tokens:,} tokens a pass"]
        if choice.optimizer != "adamw":
            parts.append(choice.optimizer)
        if choice.gradient_checkpointing:
            parts.append("checkpointing")
        if choice.sharding == "full":
            parts.append("sharded")
        return ", ".join(parts)
    if quote.instead:
        best = quote.instead[0]
        length = "" if best.max_length is None else f" of at most {best.max_length} tokens"
        how = f"{best.choice.method} with {best.choice.optimizer}{length}"
        return f"instead: {how}, {format_bytes(best.memory.peak_bytes)}"
    return "nothing fits"
