"""Where a run stands, seen from any process: its own last word, and whether its writer still lives.

A run's status.json says what it did last; a process that was killed could not change it. So the word is held against
the lock (process, start time, machine and when that was started): what says "running" and has no writer has crashed.
"""

from __future__ import annotations

import shlex
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tunesmith.run.artefacts import Plan, Result, State, Status
from tunesmith.run.directory import RECIPE, STOP, RunDir
from tunesmith.run.lock import boot_id, read_lock, writer_of

SILENT_SECONDS = 600.0
"""A run on another machine that was not heard of for so long is said to have crashed."""
ALIVE = ("waiting", "running", "stopping")


@dataclass(frozen=True)
class Standing:
    """What `tunesmith status` says."""

    state: State
    why: str
    """What it is doing, or why it ended."""
    step: int
    num_steps: int
    loss: float | None
    eval_loss: float | None
    tokens_per_second: float | None
    seconds_left: float | None
    pid: int | None
    host: str | None
    updated: float | None
    """Seconds since 1970."""
    resume: str | None
    """The command that goes on with it, where one does."""

    @property
    def is_alive(self) -> bool:
        return self.state in ALIVE

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def standing(run_dir: RunDir) -> Standing:
    """Where the run stands now. Reads three small files; nothing in them can make it fail."""
    return standing_of(run_dir, run_dir.find(Plan), run_dir.find(Result))


def standing_of(run_dir: RunDir, plan: Plan | None, result: Result | None) -> Standing:
    """The same for who has read the plan and the result already."""
    status = run_dir.find(Status)
    state, why = _state(run_dir, status, result)
    steps = plan.num_steps if plan is not None else 0
    return Standing(
        state=state,
        why=why,
        step=status.step if status else result.steps if result else 0,
        num_steps=status.num_steps if status else steps,
        loss=status.loss if status else None,
        eval_loss=status.eval_loss if status and status.eval_loss is not None else result.eval_loss if result else None,
        tokens_per_second=status.tokens_per_second if status else None,
        seconds_left=status.seconds_left if status and state in ALIVE else None,
        pid=status.pid if status else None,
        host=status.host if status else None,
        updated=status.updated if status else None,
        resume=resume_command(run_dir.path) if state in ("stopped", "failed", "crashed") else None,
    )


def resume_command(path: Path, more: str = "") -> str:
    """What goes on with the run at `path`."""
    return f"tunesmith train {shlex.quote(str(path / RECIPE))} --out {shlex.quote(str(path))} --resume{more}"


def _state(run_dir: RunDir, status: Status | None, result: Result | None) -> tuple[State, str]:
    writer = writer_of(run_dir)
    if status is None:
        if writer in ("alive", "unseen"):
            return "running", "starting"
        if result is not None and result.stopped is None:
            return "finished", ""
        return "stopped", (result.stopped or "") if result is not None else "it did not begin"
    if status.state not in ALIVE:
        return status.state, status.doing
    if writer == "alive" or (writer == "unseen" and time.time() - status.updated < SILENT_SECONDS):
        asked = run_dir.has(STOP) and status.state == "running"
        return ("stopping" if asked else status.state), status.doing
    return "crashed", _why_crashed(run_dir, status)


def _why_crashed(run_dir: RunDir, status: Status) -> str:
    lock = read_lock(run_dir)
    if lock is not None and lock.host == status.host and lock.boot != boot_id():
        return f"the machine was started again while it was {status.doing or 'training'}"
    return f"process {status.pid} on {status.host} is gone; it was {status.doing or 'training'}"
