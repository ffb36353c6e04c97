"""What joins GPUs: bandwidth by the makers' data sheets, and how long several processes take to exchange tensors.

Bandwidths are of one direction, of one GPU inside a machine and of one adapter between machines:

- NVLink: half of the total that NVIDIA states for both directions: 300 GB/s (Tesla V100 SXM2 data sheet), 600 (A100
  SXM4 data sheet), 900 (H100 SXM5 data sheet), 1,800 (Blackwell architecture brief). Bridges of two cards are left out.
- Infinity Fabric: seven links of 128 GB/s in both directions (AMD Instinct MI300X data sheet).
- PCI Express, 16 lanes: 8, 16 and 32 GT/s with 128 bits in 130 (PCI-SIG base specifications 3.0, 4.0 and 5.0).
- InfiniBand: EDR 100, HDR 200, NDR 400, XDR 800 Gbit/s a port (NVIDIA ConnectX-5 to ConnectX-8 data sheets).
- Ethernet: the nominal rate (IEEE 802.3).

A collective's time is that of NCCL's own model (nccl, src/graph/tuning.cc): bytes over bandwidth, and for each hop a
latency, 3.4 microseconds on NVLink, 5.7 on PCI Express and 14 on a network, beside 8.4 to start. Everything here is
arithmetic; none of it was measured.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tunesmith.errors import PlanError
from tunesmith.machine.gpus import Gpu

REACHED = 0.8
"""Share of a data sheet's bandwidth that collectives reach. Assumed: published runs of nccl-tests lie between 0.7 (two
A100 over NVLink) and 0.95 (InfiniBand)."""
START_SECONDS = 8.4e-6
GPUS_A_MACHINE = 8
"""Of one machine, where nothing else is said."""
CPU_BYTES_PER_SECOND = 1.0e9
"""gloo between processes of one machine, over its loopback. Assumed."""


@dataclass(frozen=True)
class Link:
    """One kind of interconnect."""

    key: str
    name: str
    where: Literal["inside", "between"]
    """The machines."""
    bandwidth: float
    """Bytes/s in one direction: of a GPU inside a machine, of an adapter between machines."""
    hop_seconds: float
    an_adapter_each: bool = False
    """Between machines: every GPU has an adapter of its own; else a machine has one."""


def _network(key: str, name: str, gigabits: float, *, each: bool) -> Link:
    return Link(key, name, "between", gigabits / 8 * 1e9, 14e-6, each)


def _nvlink(generation: int, total: float) -> Link:
    return Link(f"nvlink-{generation}", f"NVLink {generation}", "inside", total / 2 * 1e9, 3.4e-6)


def _pcie(generation: int, transfers: float) -> Link:
    return Link(
        f"pcie-{generation}", f"PCIe {generation}.0 x16", "inside", transfers * 16 * 128 / 130 / 8 * 1e9, 5.7e-6
    )


LINKS = (
    _nvlink(2, 300),
    _nvlink(3, 600),
    _nvlink(4, 900),
    _nvlink(5, 1800),
    Link("infinity-fabric", "Infinity Fabric", "inside", 7 * 64e9, 3.4e-6),
    _pcie(3, 8),
    _pcie(4, 16),
    _pcie(5, 32),
    _network("infiniband-edr", "InfiniBand EDR", 100, each=True),
    _network("infiniband-hdr", "InfiniBand HDR", 200, each=True),
    _network("infiniband-ndr", "InfiniBand NDR", 400, each=True),
    _network("infiniband-xdr", "InfiniBand XDR", 800, each=True),
    _network("ethernet-10", "10 Gbit Ethernet", 10, each=False),
    _network("ethernet-25", "25 Gbit Ethernet", 25, each=False),
    _network("ethernet-100", "100 Gbit Ethernet", 100, each=False),
    _network("ethernet-400", "400 Gbit Ethernet", 400, each=False),
)
LOOPBACK = Link("loopback", "this machine's loopback", "inside", CPU_BYTES_PER_SECOND / REACHED, 50e-6)
_ON_THE_BOARD = {
    "v100-16gb": "nvlink-2",
    "v100-32gb": "nvlink-2",
    "a100-40gb": "nvlink-3",
    "a100-80gb": "nvlink-3",
    "h100-sxm": "nvlink-4",
    "h200": "nvlink-4",
    "gh200": "nvlink-4",
    "b200": "nvlink-5",
    "mi300x": "infinity-fabric",
}
"""GPUs that are joined by more than their slot."""
_NETWORKS = {"nvlink-2": "infiniband-edr", "nvlink-3": "infiniband-hdr", "nvlink-5": "infiniband-ndr"}


def find_link(name: str) -> Link:
    """The interconnect of that name. Raises PlanError that lists near ones."""
    wanted = name.lower().replace(" ", "-").replace("_", "-")
    for link in LINKS:
        if wanted == link.key or wanted == link.key.replace("-", ""):
            return link
    near = difflib.get_close_matches(wanted, [link.key for link in LINKS], n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(link.key for link in LINKS)}."
    raise PlanError(f"--interconnect {name}: not a known interconnect. {hint}")


def asked_links(names: Sequence[str]) -> tuple[Link, ...]:
    """What --interconnect names. Raises PlanError for an unknown one, and for two of the same place."""
    found: dict[str, Link] = {}
    for name in names:
        link = find_link(name)
        if link.where in found:
            raise PlanError(
                f"--interconnect {name}: {found[link.where].key} already stands {link.where} machines. Give one for "
                "inside a machine (nvlink-*, pcie-*) and one for between machines (infiniband-*, ethernet-*)."
            )
        found[link.where] = link
    return tuple(found.values())


@dataclass(frozen=True)
class Network:
    """The processes of a run, one a GPU, and what joins them."""

    num_processes: int
    num_nodes: int
    inside: Link
    between: Link
    takes_turns: int = 1
    """Processes that share a processor whose speed is known for one alone."""

    @classmethod
    def of_gpus(cls, gpu: Gpu | None, num_processes: int, num_nodes: int, asked: Sequence[Link] = ()) -> Network:
        """Of so many GPUs in so many machines; what is not asked for is the usual for that GPU."""
        inside, between = _usual(gpu)
        for link in asked:
            inside, between = (link, between) if link.where == "inside" else (inside, link)
        return cls(num_processes, num_nodes, inside, between)

    @property
    def name(self) -> str:
        """What joins the processes, for people."""
        if self.num_nodes == 1:
            return self.inside.name
        return f"{self.inside.name} in a machine, {self.between.name} between {self.num_nodes}"

    @property
    def bandwidth(self) -> float:
        """Bytes/s at which a ring through all runs: its slowest link's. A machine's adapters work together."""
        if self.num_nodes == 1:
            return self.inside.bandwidth * REACHED
        per_machine = self.num_processes // self.num_nodes
        leaving = self.between.bandwidth * (per_machine if self.between.an_adapter_each else 1)
        if per_machine == 1:
            return leaving * REACHED
        return min(self.inside.bandwidth, leaving) * REACHED

    def gather_seconds(self, num_bytes: float) -> float:
        """To make a sharded tensor of so many bytes whole everywhere; or to sum one into its shards. Around a ring."""
        if self.num_processes == 1:
            return 0.0
        between = self.num_nodes - 1
        inside = self.num_processes - 1 - between
        hops = between * self.between.hop_seconds + inside * self.inside.hop_seconds
        return START_SECONDS + hops + self._volume(num_bytes) / self.bandwidth

    def reduce_seconds(self, num_bytes: float) -> float:
        """To sum a whole tensor over all. Around a ring, or up and down a tree of machines, whichever is faster."""
        if self.num_processes == 1:
            return 0.0
        ring = 2 * self.gather_seconds(num_bytes) - START_SECONDS
        inside = self.num_processes // self.num_nodes - 1
        hops = math.log2(self.num_nodes) * self.between.hop_seconds + inside * self.inside.hop_seconds
        tree = START_SECONDS + 2 * hops + 2 * num_bytes / self.bandwidth
        return min(ring, tree)

    def _volume(self, num_bytes: float) -> float:
        return num_bytes * (self.num_processes - 1) / self.num_processes


def network_of_processors(num_processes: int, num_nodes: int) -> Network:
    """Of processes on machines without a GPU."""
    return Network(num_processes, num_nodes, LOOPBACK, find_link("ethernet-10"))


def _usual(gpu: Gpu | None) -> tuple[Link, Link]:
    """What mostly joins GPUs of a kind: in a machine, and machines."""
    if gpu is not None and gpu.key in _ON_THE_BOARD:
        inside = _ON_THE_BOARD[gpu.key]
        return find_link(inside), find_link(_NETWORKS.get(inside, "infiniband-ndr"))
    capability = (8, 0) if gpu is None else gpu.capability
    generation = 3 if capability < (8, 0) else 4 if capability < (9, 0) else 5
    return find_link(f"pcie-{generation}"), find_link("ethernet-100")
