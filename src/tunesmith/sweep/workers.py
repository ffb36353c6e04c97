"""Processes that make trials of one sweep at a time, each on a GPU of its own; without GPUs they share the cores."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tunesmith.errors import SweepError

VISIBLE = "CUDA_VISIBLE_DEVICES"


def devices_of(workers: int, visible: str | None, num_devices: int) -> list[str | None]:
    """What each worker is to see as VISIBLE; None: what this process sees.

    visible: of this process. num_devices: GPUs that it sees. Raises SweepError for more workers than GPUs.
    """
    if workers == 1 or num_devices == 0:
        return [None] * workers
    if workers > num_devices:
        raise SweepError(f"sweep: --workers {workers}, but {num_devices} GPUs are seen. Each worker takes one.")
    names = [name.strip() for name in visible.split(",")] if visible else [str(number) for number in range(num_devices)]
    return list(names[:workers])


def choose_devices(workers: int) -> list[str | None]:
    """A GPU for each worker, the first for this process, which from now on sees no other. Before CUDA is used."""
    if workers == 1:
        return [None]
    import torch

    devices = devices_of(workers, os.environ.get(VISIBLE), torch.cuda.device_count())
    if devices[0] is not None:
        os.environ[VISIBLE] = devices[0]
    return devices


@contextmanager
def helping(devices: Sequence[str | None], arguments: Sequence[str]) -> Iterator[Callable[[], None]]:
    """Call what this gives once the sweep is open: the same command then goes on in other processes, one for each
    device but the first. They end by themselves with the sweep's budget; where this process ends early they are asked
    to stop, which they do at the end of a step.
    """
    others: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        for device in devices[1:]:
            seen = {} if device is None else {VISIBLE: device}
            command = [sys.executable, "-m", "tunesmith", *arguments, "--workers", "1", "--joins"]
            others.append(subprocess.Popen(command, env={**os.environ, **seen}, stdout=subprocess.DEVNULL))

    try:
        yield start
    except BaseException:
        for process in others:
            process.terminate()
        raise
    finally:
        for process in others:
            process.wait()
