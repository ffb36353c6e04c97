"""What a run writes down while it goes on: metrics and samples, log.txt, status.json. An observer is told the same."""

from __future__ import annotations

import os
import socket
import time
import traceback
from types import TracebackType

from tunesmith.errors import Stopped, TunesmithError
from tunesmith.redact import visible
from tunesmith.run.artefacts import EvalScores, Event, MetricsLine, SamplesLine, State, Status
from tunesmith.run.directory import STOP, RunDir
from tunesmith.run.lock import boot_id
from tunesmith.run.observer import Observer

STATUS_SECONDS = 1.0
"""Between two writings of status.json."""
SHOWN_CHARACTERS = 160
"""Of a sample, in the log."""


class Recorder:
    """One run's record. As a context it leaves the last word in status.json: finished, stopped or failed."""

    def __init__(self, run_dir: RunDir, num_steps: int, observer: Observer) -> None:
        self.run_dir, self.num_steps, self.observer = run_dir, num_steps, observer
        self._step, self._last_status = 0, 0.0
        self._line: MetricsLine | None = None
        self._seconds_left: float | None = None
        self._eval_loss: float | None = None

    def __enter__(self) -> Recorder:
        self.run_dir.remove(STOP)  # asked of an earlier process
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        state: State = "finished" if error is None else "stopped" if isinstance(error, Stopped) else "failed"
        self._seconds_left = None
        if state == "failed" and not isinstance(error, TunesmithError):
            self.run_dir.log("".join(traceback.format_exception(error)))
        self._write_status(state, _last_word(error))

    def doing(self, stage: str) -> None:
        """What is done from now on, where no steps are made."""
        self._write_status("running", stage)
        self.observer.doing(stage)

    def started(self, step: int) -> None:
        self._step = step
        self.observer.started(step, self.num_steps)

    def note(self, message: str) -> None:
        """Something that the user should know; also goes to log.txt."""
        self.run_dir.log(message)
        self.observer.note(message)

    def happened(self, event: Event) -> None:
        """Something that the run survived and has noted."""
        self.observer.happened(event)

    def stepped(self, line: MetricsLine, seconds_left: float | None) -> None:
        """Write a line of metrics.jsonl."""
        self.run_dir.append_metrics(line.to_json())
        self._step, self._line, self._seconds_left = line.step, line, seconds_left
        self._write_status("running", "training", often=True)
        self.observer.stepped(line, seconds_left)

    def evaluating(self, done: int, total: int) -> None:
        self._write_status("running", f"evaluating {done}/{total}", often=True)
        self.observer.evaluating(done, total)

    def evaluated(self, line: MetricsLine, scores: EvalScores) -> None:
        """Write the line of an evaluation."""
        self.run_dir.append_metrics(line.to_json())
        if line.step > 0:  # the base's loss is not the run's own
            self._eval_loss = scores.eval_loss
        self.run_dir.log(f"step {line.step}: held-out loss {scores.eval_loss:.3f}")
        self.observer.evaluated(line.step, scores)

    def saved(self, step: int) -> None:
        self.run_dir.log(f"step {step}: checkpoint saved")

    def wrote(self, line: SamplesLine) -> None:
        """Write a line of samples.jsonl, and the beginning of each text where people read."""
        self.run_dir.append_samples(line)
        for text in line.texts:
            self.note(f"step {line.step} writes: {_beginning(text.whole)}")

    def stopping(self) -> None:
        """The run ends after this step."""
        self._write_status("stopping", "saving")

    def stop_was_asked(self) -> bool:
        """Whether another process asked for a stop by the run directory's stop file, which is taken away."""
        if not self.run_dir.has(STOP):
            return False
        self.run_dir.remove(STOP)
        return True

    def _write_status(self, state: State, doing: str, *, often: bool = False) -> None:
        now = time.monotonic()
        if often and now - self._last_status < STATUS_SECONDS:
            return
        self._last_status = now
        line = self._line
        self.run_dir.write(
            Status(
                state=state,
                doing=doing,
                step=self._step,
                num_steps=self.num_steps,
                loss=line.loss if line else None,
                eval_loss=self._eval_loss,
                tokens_per_second=line.tokens_per_second if line else None,
                seconds_left=self._seconds_left,
                pid=os.getpid(),
                host=socket.gethostname(),
                boot=boot_id(),
                updated=time.time(),
            )
        )


def _beginning(text: str) -> str:
    """Of a text, in one line."""
    flat = " ".join(visible(text).split())
    return flat if len(flat) <= SHOWN_CHARACTERS else f"{flat[: SHOWN_CHARACTERS - 1]}…"


def _last_word(error: BaseException | None) -> str:
    """Why a run ended, in one line."""
    if error is None:
        return ""
    if isinstance(error, Stopped):
        return error.reason
    return next(iter(str(error).splitlines()), type(error).__name__)
