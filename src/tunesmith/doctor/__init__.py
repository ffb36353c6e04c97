"""Is this machine fit to train on? Numbered checks, each ok, warn or failed, with what to do.

software.py   Python, required and optional packages, torch against the driver
hardware.py   GPUs, arithmetic and attention, speed, cores and load, memory
places.py     disk and write permission of the output and the cache, the hub, the login, the embedded model
checks.py     Examination

Only what makes training impossible makes `can_train` false. A check that itself breaks is failed, and never ends the
examination.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tunesmith.doctor import hardware, places, software
from tunesmith.doctor.checks import Examination
from tunesmith.redact import redact
from tunesmith.run.artefacts import Finding, numbered

__all__ = ["Examination", "examine"]


def examine(out: str | Path = "runs", *, bench: bool = False) -> Examination:
    """Examine this machine for training runs that are written under `out`.

    bench: also measure matrix products and memory, which takes a few seconds.
    """
    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("python", software.check_python),
        ("packages", software.check_packages),
        ("torch", software.check_torch),
        ("gpu", hardware.check_gpus),
        ("arithmetic", hardware.check_arithmetic),
        ("speed", lambda: hardware.check_speed(bench)),
        ("load", hardware.check_load),
        ("memory", hardware.check_memory),
        ("output", lambda: places.check_output(Path(out))),
        ("cache", places.check_cache),
        ("optional", software.check_optional),
        ("embedded model", places.check_embedded),
        ("hub", places.check_hub),
        ("login", places.check_login),
    ]
    return Examination(numbered(_run(name, check) for name, check in checks))


def _run(name: str, check: Callable[[], Finding]) -> Finding:
    """The result of a check; one that breaks is failed, with the reason, and the others still run."""
    try:
        return check()
    except Exception as error:
        found = f"could not be checked: {type(error).__name__}: {redact(str(error))[:200]}"
        return Finding(name=name, status="failed", found=found, fix="Please report this with the line above.")
