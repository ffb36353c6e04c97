"""The same run on more GPUs: how many, in how many machines, and what each number gains over fewer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tunesmith.errors import PlanError
from tunesmith.machine.gpus import Gpu
from tunesmith.machine.interconnect import GPUS_A_MACHINE, Link, Network, asked_links

if TYPE_CHECKING:
    from tunesmith.forecast.forecaster import Forecaster
    from tunesmith.plan.quote import Quote

MAX_PROCESSES = 65_536
MOST_SENTENCES = 3


@dataclass(frozen=True)
class Counts:
    """GPUs that a run is planned for: `per_machine` in each of `num_nodes` machines, joined by `links` or the usual."""

    per_machine: int = 1
    num_nodes: int = 1
    links: tuple[Link, ...] = ()

    @classmethod
    def of(cls, procs: int | None, nodes: int | None = None, interconnect: Sequence[str] = ()) -> Counts:
        """What --procs, --nodes and --interconnect say; without --nodes, more than 8 GPUs stand in machines of 8.

        Raises PlanError for numbers that make no machines and for interconnects that join nothing here.
        """
        for option, number in (("--procs", procs), ("--nodes", nodes)):
            if number is not None and number < 1:
                raise PlanError(f"{option} {number}: expected at least 1.")
        if procs is None:
            for option, given in (("--nodes", nodes), ("--interconnect", interconnect)):
                if given:
                    raise PlanError(f"{option} without --procs: say with --procs how many GPUs a machine has.")
            return cls()
        per_machine, num_nodes = (procs, nodes) if nodes is not None else _machines_of(procs)
        found = cls(per_machine, num_nodes, asked_links(interconnect))
        if found.num_processes > MAX_PROCESSES:
            raise PlanError(f"--procs: {found.num_processes:,} processes. Expected at most {MAX_PROCESSES:,}.")
        for link in found.links:
            if link.where == "between" and num_nodes == 1:
                raise PlanError(
                    f"--interconnect {link.key} joins machines, but there is one. Add --nodes, or name what joins its "
                    "GPUs (nvlink-*, pcie-*)."
                )
            if link.where == "inside" and per_machine == 1:
                raise PlanError(f"--interconnect {link.key} joins GPUs of a machine, but each machine has one GPU.")
        return found

    @property
    def num_processes(self) -> int:
        """In all."""
        return self.per_machine * self.num_nodes

    def ladder(self) -> list[Counts]:
        """1, 2, 4, ... GPUs up to these: a machine is filled before there is a second."""
        inside = [replace(self, per_machine=number, num_nodes=1) for number in _doublings(self.per_machine)]
        return inside + [replace(self, num_nodes=number) for number in _doublings(self.num_nodes)[1:]]

    def network(self, gpu: Gpu | None) -> Network | None:
        """What joins them; None for one GPU."""
        if self.num_processes == 1:
            return None
        return Network.of_gpus(gpu, self.num_processes, self.num_nodes, self.links)


def _machines_of(procs: int) -> tuple[int, int]:
    if procs <= GPUS_A_MACHINE:
        return procs, 1
    if procs % GPUS_A_MACHINE:
        raise PlanError(
            f"--procs {procs}: more than {GPUS_A_MACHINE} GPUs stand in machines of {GPUS_A_MACHINE}, which {procs} "
            "does not fill. Give a multiple, or the GPUs of each machine as --procs and the machines as --nodes."
        )
    return GPUS_A_MACHINE, procs // GPUS_A_MACHINE


def _doublings(number: int) -> list[int]:
    """1, 2, 4, ... below `number`, then `number`."""
    return [*(1 << power for power in range((number - 1).bit_length())), number]


def check_counts(forecaster: Forecaster, tokens_per_step: int, counts: Counts) -> None:
    """Raise PlanError where processes would have nothing to do: a document is never cut."""
    number = counts.num_processes
    if number == 1:
        return
    if forecaster.recipe.train.loop == "reference":
        raise PlanError("train.loop: reference is priced for one process. Leave out --procs, or train.loop.")
    documents = forecaster.steps(tokens_per_step).documents
    if number > documents:
        per_document = forecaster.workload.train.num_tokens / len(forecaster.workload.train.fed)
        raise PlanError(
            f"--procs: {number:,} processes, but a step of {tokens_per_step:,} tokens has {documents:,.0f} documents, "
            f"and each process takes whole ones. Take at most {max(1, int(documents)):,}, or set train.tokens_per_step "
            f"to {int(number * per_document) + 1:,} or more, which changes what is learned."
        )


def with_efficiency(quotes: Sequence[Quote]) -> tuple[Quote, ...]:
    """Quotes of one kind of GPU in growing numbers, each with its speed a GPU as a share of the first's that fits."""
    base = next((quote for quote in quotes if quote.found.fit != "no"), None)
    if base is None:
        return tuple(quotes)
    spent = base.num_processes * base.forecast.step_seconds
    return tuple(
        quote
        if quote.found.fit == "no"
        else replace(quote, efficiency=spent / (quote.num_processes * quote.forecast.step_seconds))
        for quote in quotes
    )


def beaten(quotes: Sequence[Quote]) -> tuple[tuple[Quote, Quote], ...]:
    """Several smaller GPUs that are cheaper than one larger one and as fast: (they, it), the largest saving first.

    Smaller: the data sheet has fewer operations a second, and less memory.
    """
    fitting = [quote for quote in quotes if quote.found.fit == "fits" and quote.cost is not None]
    pairs = []
    for one in (quote for quote in fitting if quote.num_processes == 1):
        better = [many for many in fitting if many.num_processes > 1 and _beats(many, one)]
        if better:
            pairs.append((min(better, key=lambda many: many.cost or 0.0), one))
    pairs.sort(key=lambda pair: (pair[0].cost or 0.0) / (pair[1].cost or 1.0))
    return tuple(pairs[:MOST_SENTENCES])


def _beats(many: Quote, one: Quote) -> bool:
    small, large = many.target.gpu, one.target.gpu
    if small is None or large is None or many.cost is None or one.cost is None:
        return False
    smaller = small.matrix < large.matrix and small.memory_bytes < large.memory_bytes
    sooner = many.forecast.time.total_seconds <= one.forecast.time.total_seconds
    return smaller and sooner and many.cost < one.cost
