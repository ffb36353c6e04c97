"""The table of docs/scaling.md: one run forecast on 1 to 1,024 GPUs, by the code behind `tunesmith plan --procs`.

    python benchmarks/scaling.py

Nothing is trained and nothing measured; no GPU, no weights, no data and no network are needed.
"""

from __future__ import annotations

from pathlib import Path

from tunesmith.forecast.forecaster import Forecaster, Target
from tunesmith.forecast.shapes import find_shape
from tunesmith.forecast.workload import Workload
from tunesmith.machine.gpus import find_gpu
from tunesmith.machine.prices import typical_prices
from tunesmith.plan.counts import Counts, with_efficiency
from tunesmith.plan.quote import Quote, quote_of
from tunesmith.recipe import Recipe
from tunesmith.units import format_bytes

GPU = "h100-sxm"
COUNTS = (1, 2, 8, 16, 64, 256, 1024)
NETWORKS = ("infiniband-ndr", "ethernet-100")
"""Between machines of 8."""
HEAD = (
    "GPUs",
    "weights",
    "sharding",
    "each holds",
    "tokens each",
    "a step",
    "waits",
    "efficiency",
    "1B tokens",
    "costs",
)
RECIPE = Recipe(
    model={"name": "meta-llama/Llama-3.1-8B"},
    data={"path": "assumed.jsonl", "text": "text"},
    train={"max_length": 4096, "tokens_per_step": 4_194_304},
)


def ladder(network: str) -> tuple[Quote, ...]:
    """The run on every number of GPUs, with machines joined by `network`."""
    gpu, prices = find_gpu(GPU), typical_prices()
    forecaster = Forecaster(RECIPE, find_shape(RECIPE.model.name), Workload.assume(RECIPE, "assumed", 4096))
    quotes = []
    for number in COUNTS:
        counts = Counts.of(number, interconnect=[network] if number > 8 else [])
        target = Target.of_gpu(gpu, counts.network(gpu))
        quotes.append(quote_of(forecaster, target, prices, Path(), alone=True))
    return with_efficiency(quotes)


def row(quote: Quote) -> list[str]:
    """Under HEAD."""
    forecast, choice = quote.forecast, quote.found.choice
    tokens, seconds = forecast.step_tokens, forecast.step_seconds
    hours = seconds * 1e9 / tokens / 3600
    cost = "-" if quote.price is None else f"{hours * quote.num_processes * quote.price:,.0f}"
    return [
        f"{quote.num_processes:,}",
        choice.dtype,
        choice.sharding,
        format_bytes(forecast.memory.peak_bytes),
        f"{forecast.step_time.exchange.own(tokens):,.0f}",
        f"{seconds:,.2f} s",
        f"{forecast.step_time.waited_seconds(tokens) / seconds:.0%}",
        "-" if quote.efficiency is None else f"{quote.efficiency:.0%}",
        f"{hours:,.2f} h",
        cost,
    ]


def table(network: str) -> str:
    """As markdown."""
    rows = [HEAD, ["---:"] * len(HEAD), *(row(quote) for quote in ladder(network))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def main() -> None:
    """Print what docs/scaling.md holds."""
    for network in NETWORKS:
        print(f"Machines joined by {network}:\n\n{table(network)}\n")


if __name__ == "__main__":
    main()
