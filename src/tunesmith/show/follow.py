"""Follow a run of another process: its log as it grows, and a bar; its last word at the end."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from tunesmith.errors import Stopped
from tunesmith.redact import visible
from tunesmith.run.artefacts import MetricsLine
from tunesmith.run.directory import LOG, RunDir
from tunesmith.run.standing import Standing, standing
from tunesmith.show.progress import Progress

if TYPE_CHECKING:
    from rich.console import Console

POLL_SECONDS = 0.5
TAIL_BYTES = 4_000
"""Of the log, where following begins."""


def follow(run_dir: RunDir, console: Console) -> Standing:
    """Show a run until it ends, or until Ctrl-C, which leaves it running. Returns where it stands then."""
    place = _begin(run_dir)
    with contextlib.suppress(KeyboardInterrupt, Stopped), Progress(console) as progress:
        begun, shown = False, -1
        while True:
            found = standing(run_dir)
            place = _pass_on(run_dir, place, progress)
            if not found.is_alive:
                return found
            if found.loss is not None and found.step != shown:
                if not begun:
                    progress.started(found.step, found.num_steps)
                    begun = True
                progress.stepped(_line(found), found.seconds_left)
                shown = found.step
            time.sleep(POLL_SECONDS)
    return standing(run_dir)


def _line(found: Standing) -> MetricsLine:
    return MetricsLine(step=found.step, epoch=0.0, time=0.0, loss=found.loss, tokens_per_second=found.tokens_per_second)


def _begin(run_dir: RunDir) -> int:
    """Where the last lines of the log begin."""
    try:
        size = run_dir.file(LOG).stat().st_size
    except OSError:
        return 0
    return max(0, size - TAIL_BYTES)


def _pass_on(run_dir: RunDir, begin: int, progress: Progress) -> int:
    """Show the whole lines of the log from byte `begin` on; returns where the next one begins."""
    try:
        with run_dir.file(LOG).open("rb") as file:
            file.seek(0, os.SEEK_END)
            if file.tell() < begin:  # the run was begun again
                begin = 0
            file.seek(begin)
            data = file.read(1 << 20)
    except OSError:
        return begin
    whole = data[: data.rfind(b"\n") + 1]
    for line in whole.decode("utf-8", errors="replace").splitlines():
        progress.note(visible(line))
    return begin + len(whole)
