"""How the threads that share one operation wait for each other: spinning where the cores are free, asleep where not.

torch's threads come from OpenMP. One that has done its share spins until the others have, which is fastest while each
has a core of its own: SmolLM2-135M on two quiet cores, 512 tokens a step: 277 to 300 tokens/s spinning, 252 to 262
asleep. Beside other work it spins away the time that the thread it waits for would need: on two busy cores 3 to 17
tokens/s spinning, 151 to 204 asleep. A bounded spin (GOMP_SPINCOUNT=1000) gave 258 to 260 on the quiet machine, so that
none serves both, and the load at the start chooses.

GNU OpenMP (torch for Linux) and LLVM's and Intel's (macOS, Windows) all obey OMP_WAIT_POLICY, and read it once, when
torch loads.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path

POLICY = "OMP_WAIT_POLICY"
SETTINGS = (POLICY, "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS")
"""Whoever sets one of these has decided."""
BUSY_LOAD = 0.5
"""Average number of running processes of others from which on two cores are busy; one more for each eight beyond."""
LOADAVG = Path("/proc/loadavg")
_LOOKS, _LOOK_SECONDS = 5, 0.004


@dataclass(frozen=True)
class Waiting:
    """How threads wait in this process, and why."""

    how: str
    is_busy: bool
    """Others use the cores, and threads spin or sleep accordingly; worth a line before a run."""
    was_too_late: bool = False
    """They spin on a busy machine, because torch was loaded first."""


_chosen: list[Waiting] = []


def choose_waiting() -> Waiting:
    """Set how torch's threads wait, by the load now. Call it before torch loads; the first call decides.

    What the environment says about OpenMP's threads is left alone.
    """
    if not _chosen:
        _chosen.append(decide(os.environ, is_loaded="torch" in sys.modules, is_busy=is_busy))
    return _chosen[0]


def decide(environment: MutableMapping[str, str], *, is_loaded: bool, is_busy: Callable[[], bool]) -> Waiting:
    """The decision of `choose_waiting`; sets OMP_WAIT_POLICY in `environment` where threads are to sleep."""
    given = _given(environment)
    if given:
        return Waiting(f"threads wait as {given} says", is_busy=False)
    busy = is_busy()
    if not busy:
        return Waiting("threads spin while they wait: the cores are free", is_busy=False)
    if is_loaded:
        return Waiting(
            f"the cores are busy, and torch was loaded before this could be met: set {POLICY}=PASSIVE, or call "
            "tunesmith before torch is imported",
            is_busy=True,
            was_too_late=True,
        )
    environment[POLICY] = "PASSIVE"
    return Waiting(f"the cores are busy: threads sleep while they wait ({POLICY}=PASSIVE)", is_busy=True)


def _given(environment: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={environment[name]}" for name in SETTINGS if environment.get(name))


def is_busy() -> bool:
    """Whether others use enough of the cores to hold up threads that wait for each other.

    The load of the last minute alone would take for busy what has just ended, so what runs at this moment counts too.
    """
    try:
        load = os.getloadavg()[0]
    except (AttributeError, OSError):  # Windows
        return False
    return load > busy_load(os.cpu_count() or 1) and _runs_now()


def busy_load(num_cores: int) -> float:
    """Processes of others, on average, from which threads had better sleep."""
    return BUSY_LOAD + max(0, num_cores - 2) / 8


def _runs_now() -> bool:
    """Whether something else runs in most of a few looks, within a fiftieth of a second; True where none can be had."""
    seen = 0
    for look in range(_LOOKS):
        if look:
            time.sleep(_LOOK_SECONDS)
        try:
            running = int(LOADAVG.read_text().split()[3].partition("/")[0])
        except (OSError, ValueError, IndexError):
            return True
        seen += running > 1  # this process is one
    return seen * 2 > _LOOKS
