"""What train.report_to names: each step's numbers, the texts and the recipe, told to other programs through accelerate.

metrics.jsonl and samples.jsonl stay the truth; a tracker may be slow, fail or hang, and the run neither waits nor ends.
So each has a thread of its own, which takes what it is told from a queue.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import queue
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from tunesmith.disk import write_text
from tunesmith.errors import TrainingError
from tunesmith.redact import first_line, redact
from tunesmith.run.artefacts import JsonObject, MetricsLine, SamplesLine
from tunesmith.run.directory import SAMPLES, TRACKERS, RunDir

PROJECT = "tunesmith"
END_SECONDS = 60.0
"""That a run waits for its trackers at its end."""
MAX_WAITING = 10_000
"""Lines that wait for a slow tracker; later ones are left out there."""
EXTRA = ("tensorboard", "wandb", "trackio", "mlflow")
"""Trackers of `pip install 'tunesmith[trackers]'`."""


class Trackers:
    """All trackers of a run. `note` is told of each that fails, once."""

    def __init__(self, names: Sequence[str], run_dir: RunDir, note: Callable[[str], None]) -> None:
        self._names, self._run_dir, self._note = names, run_dir, note
        self._running: list[_Tracker] = []

    def start(self, recipe: JsonObject, step: int) -> None:
        """Begin, or go on after `step`. Flat values of the recipe are told without secrets."""
        if not self._names:
            return
        flat = {
            f"{section}.{key}": redact(str(value)) for section, part in recipe.items() for key, value in part.items()
        }
        ids = _Ids(self._run_dir.file(TRACKERS) / "ids.json")
        for name in self._names:
            self._running.append(_Tracker(name, self._run_dir, ids, step, self._note))
            self._running[-1].put(lambda tracker: tracker.store_init_configuration(flat))

    def log(self, line: MetricsLine, base_loss: float | None) -> None:
        """A line of metrics.jsonl; beside a held-out loss stands the base's, a level in the same chart."""
        values: dict[str, Any] = {key: value for key, value in line.to_json().items() if key not in ("step", "time")}
        values["seconds"] = line.time  # trackio keeps "time" for itself
        if line.eval_loss is not None and base_loss is not None:
            values["eval_loss_base"] = base_loss
        for running in self._running:
            running.put(lambda tracker: tracker.log(values, step=line.step))

    def wrote(self, line: SamplesLine) -> None:
        """The texts of an evaluation."""
        for running in self._running:
            running.put(lambda tracker: _tell_texts(tracker, line, self._run_dir.file(SAMPLES)))

    def end(self) -> None:
        """Wait until all is told, but not for ever."""
        for running in self._running:
            running.finish()
        self._running.clear()


class _Tracker:
    """One tracker in its thread."""

    def __init__(self, name: str, run_dir: RunDir, ids: _Ids, step: int, note: Callable[[str], None]) -> None:
        self.name, self._run_dir, self._ids, self._step, self._note = name, run_dir, ids, step, note
        self._queue: queue.Queue[Callable[[Any], object] | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def put(self, tell: Callable[[Any], object]) -> None:
        if self._thread.is_alive() and not self._queue.full():
            self._queue.put_nowait(tell)

    def finish(self) -> None:
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=END_SECONDS if self._thread.is_alive() else 0)
        self._thread.join(END_SECONDS)
        if self._thread.is_alive():
            self._note(f"train.report_to: {self.name} did not take everything in {END_SECONDS:g} s; it is left behind")

    def _work(self) -> None:
        try:
            self._run_dir.file(TRACKERS).mkdir(mode=0o700, exist_ok=True)
            tracker = LOGGER_TYPE_TO_CLASS[self.name](PROJECT, **self._options())
            tracker.start()
            self._ids.keep(self.name, tracker)
            while (tell := self._queue.get()) is not None:
                tell(tracker)
            tracker.finish()
        except Exception as error:  # another program's: it may fail in any way
            self._note(f"train.report_to: {self.name}: {first_line(error)}. The run goes on without it.")

    def _options(self) -> dict[str, Any]:
        name, folder = self._run_dir.path.resolve().name, str(self._run_dir.file(TRACKERS))
        mine = f"{name}-{self._ids.of_run[:8]}"
        options: dict[str, dict[str, Any]] = {
            "tensorboard": {"logging_dir": folder, "purge_step": self._step + 1 if self._step else None},
            "wandb": {
                "name": name,
                "id": mine,
                "resume": "allow",
                "dir": folder,
                "settings": {"console": "off", "silent": True},
            },
            "trackio": {"name": mine, "resume": "allow"},
            "mlflow": {"run_name": name, "run_id": self._ids.known.get("mlflow")},
        }
        needs_folder = LOGGER_TYPE_TO_CLASS[self.name].requires_logging_directory
        return options.get(self.name, {"logging_dir": folder} if needs_folder else {})


class _Ids:
    """By which names trackers know a run, kept so that it goes on in the same curve after a resume."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = {}
        self.known: dict[str, str] = found if isinstance(found, dict) else {}
        self.of_run = str(self.known.setdefault("run", uuid.uuid4().hex))
        self._lock = threading.Lock()

    def keep(self, name: str, tracker: Any) -> None:
        """Write them down; mlflow chooses its own."""
        with self._lock:
            if name == "mlflow":
                self.known[name] = tracker.tracker.info.run_id
            write_text(self.path, json.dumps(self.known))


def _tell_texts(tracker: Any, line: SamplesLine, file: Path) -> None:
    """As a table, a file or plain text: whichever a tracker has."""
    if tracker.name == "wandb":
        rows = [[line.step, text.prompt, text.text] for text in line.texts]
        tracker.log_table("samples", columns=["step", "prompt", "text"], data=rows, step=line.step)
    elif tracker.name == "mlflow":
        tracker.log_artifact(str(file))
    else:
        tracker.log({f"samples/{number}": text.whole for number, text in enumerate(line.texts)}, step=line.step)


def check_trackers(names: Sequence[str], known: Mapping[str, Any] = LOGGER_TYPE_TO_CLASS) -> None:
    """Raise TrainingError for a tracker that accelerate does not know, or whose package is not installed."""
    for name in names:
        if name not in known:
            raise TrainingError(f"train.report_to: {name}: unknown tracker. Expected some of: {', '.join(known)}.")
        if importlib.util.find_spec(name) is None:
            package = "'tunesmith[trackers]'" if name in EXTRA else name
            raise TrainingError(f"train.report_to: {name} is not installed. Run: pip install {package}")
