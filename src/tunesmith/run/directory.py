"""The run directory: every artefact's name, writer and reader.

    recipe.yaml      the resolved recipe            plan.json        decided values; predicted and, after, measured
    data.json        counts, ledger, fingerprints   metrics.jsonl    a line per log step
    samples.jsonl    texts at each evaluation
    checkpoints/     step-N/ with MANIFEST.json     result.json      final metrics
    model/           weights, tokenizer, card       compare.json     outputs and scores
    votes.jsonl      choices of blind tests         report.html      log.txt
    export/          what was exported, each with EXPORT.json
    lock, status.json while it runs

Directories are created 0700 and files 0600. JSON files are replaced whole: a reader sees the old one or the new one.
Full paths of this machine are written by name (places.py).
This module imports no torch, so that the report and the command line stay quick.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tunesmith.disk import disk_errors, finite, open_private, write_text
from tunesmith.errors import RunError, TunesmithError
from tunesmith.recipe import Recipe
from tunesmith.redact import redact
from tunesmith.run.artefacts import Artefact, JsonObject, MetricsLine, SamplesLine
from tunesmith.run.places import Places

A = TypeVar("A", bound=Artefact)
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""s3://bucket/run, also as a path that has lost a slash; no drive of Windows has two letters."""
RUN_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")

RECIPE = "recipe.yaml"
DATA = "data.json"
PLAN = "plan.json"
METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
RESULT = "result.json"
COMPARE = "compare.json"
VOTES = "votes.jsonl"
REPORT = "report.html"
LOG = "log.txt"
STATUS = "status.json"
LOCK = "lock"
STOP = "stop"
"""A file that asks the run to stop at the end of its step, from machines that cannot send it a signal."""
CHECKPOINTS = "checkpoints"
MODEL = "model"
EXPORTS = "export"
"""What was exported, each in a folder of its own."""
TRACKERS = "trackers"
"""What trackers of train.report_to keep here, such as the files of tensorboard."""


def _by_the_writer(method: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(method)
    def guarded(self: RunDir, *args: Any, **kwargs: Any) -> None:
        if self.writes:
            method(self, *args, **kwargs)

    return guarded


class RunDir:
    """One run on disk.

    `RunDir.create` makes or reopens a run for writing; `RunDir.open` reads a run that exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writes = True
        """False in every process but the first of several that train together: its writers do nothing."""
        self._places: Places | None = None

    @classmethod
    def create(cls, out: str | Path) -> RunDir:
        """Make the directory `out`, or reopen the run that it holds.

        Raises RunError when the name is not allowed or the directory holds something that is not a run.
        """
        run_dir = cls(check_run_path(out))
        with disk_errors(run_dir.path):
            run_dir.check_content()
            run_dir.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return run_dir

    def check_content(self) -> None:
        """Raise RunError when the directory holds something, but no run."""
        if not self.path.exists() or self.file(RECIPE).is_file():
            return
        found = sorted(
            entry.name
            for entry in self.path.iterdir()
            if entry.name not in (LOCK, LOG) and not _LEFTOVER.fullmatch(entry.name)
        )
        if CHECKPOINTS in found:
            raise RunError(
                f"{self.path}: holds checkpoints but no {RECIPE}. Copy the recipe of this run to "
                f"{self.file(RECIPE)} and run the same command again, or choose another --out."
            )
        if found:
            raise RunError(
                f"{self.path}: is not empty and holds no run ({', '.join(found[:5])}). Choose another --out."
            )

    @classmethod
    def open(cls, path: str | Path) -> RunDir:
        """The run at `path`. Raises RunError when there is none."""
        path = Path(path)
        if not (path / RECIPE).is_file():
            raise RunError(f"{path}: no run here (no {RECIPE}). Give the directory that `tunesmith train` wrote.")
        return cls(path)

    @staticmethod
    def is_run(path: str | Path) -> bool:
        """Whether `path` holds a run."""
        return (Path(path) / RECIPE).is_file()

    def file(self, name: str) -> Path:
        """Path of one artefact."""
        return self.path / name

    @property
    def checkpoints(self) -> Path:
        return self.path / CHECKPOINTS

    @property
    def model(self) -> Path:
        return self.path / MODEL

    def recipe(self) -> Recipe:
        """The resolved recipe of the run."""
        return Recipe.load(self.file(RECIPE))

    @property
    def places(self) -> Places:
        """Full paths of this machine, which only recipe.yaml may hold."""
        if self._places is None and self.has(RECIPE):
            with contextlib.suppress(TunesmithError, OSError):
                self._places = Places.of(self.path, self.recipe())
        return self._places or Places.of(self.path, None)

    @_by_the_writer
    def write_recipe(self, recipe: Recipe) -> None:
        write_text(self.file(RECIPE), recipe.to_yaml())
        self._places = Places.of(self.path, recipe)

    def read_json(self, name: str) -> JsonObject:
        """An artefact, or RunError that says which command writes it."""
        path = self.file(name)
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(f"{path}: missing. `tunesmith {_WRITERS.get(name, 'train')}` writes it.") from None
        except ValueError as error:
            raise RunError(f"{path}: not valid JSON ({error}). The file is damaged; write it again.") from None
        if not isinstance(value, dict):
            raise RunError(f"{path}: expected a JSON object, found {type(value).__name__}.")
        return value

    def read(self, kind: type[A]) -> A:
        """An artefact. Raises RunError when it is missing, damaged, or written by a newer version than can be read."""
        return kind.parse(self.read_json(kind.FILE), str(self.file(kind.FILE)))

    def find(self, kind: type[A]) -> A | None:
        """An artefact, or None where there is none or it cannot be used."""
        try:
            return self.read(kind) if self.has(kind.FILE) else None
        except RunError:
            return None

    def write(self, artefact: Artefact) -> None:
        """Replace an artefact in one step."""
        self.write_json(artefact.FILE, artefact.to_json())

    def has(self, name: str) -> bool:
        return self.file(name).exists()

    @_by_the_writer
    def write_json(self, name: str, value: Mapping[str, object]) -> None:
        """Replace an artefact in one step. Numbers that are not finite are written as null, full paths as names."""
        values = self.places.by_name(finite(value))
        write_text(self.file(name), json.dumps(values, indent=2, ensure_ascii=False) + "\n")

    def append_metrics(self, line: Mapping[str, object]) -> None:
        self._append(METRICS, line)

    def append_samples(self, line: SamplesLine) -> None:
        self._append(SAMPLES, line.to_json())

    @_by_the_writer
    def _append(self, name: str, line: Mapping[str, object]) -> None:
        with open_private(self.file(name), os.O_APPEND) as file:
            file.write(json.dumps(finite(line)) + "\n")

    def metrics(self) -> list[JsonObject]:
        """The lines of metrics.jsonl; a last line that a kill cut short is left out."""
        return self._lines(METRICS)

    def samples(self) -> list[SamplesLine]:
        """The lines of samples.jsonl that can be used."""
        lines = list[SamplesLine]()
        for values in self._lines(SAMPLES):
            with contextlib.suppress(RunError):
                lines.append(SamplesLine.parse(values, SAMPLES))
        return lines

    def _lines(self, name: str) -> list[JsonObject]:
        if not self.has(name):
            return []
        lines = []
        for text in self.file(name).read_text(encoding="utf-8", errors="replace").split("\n"):
            with contextlib.suppress(ValueError):
                lines.append(json.loads(text))
        return [line for line in lines if isinstance(line, dict)]

    def metrics_lines(self) -> tuple[list[MetricsLine], int]:
        """The lines of metrics.jsonl as values, and how many could not be used."""
        lines, num_damaged = list[MetricsLine](), 0
        for values in self.metrics():
            try:
                lines.append(MetricsLine.parse(values, METRICS))
            except RunError:
                num_damaged += 1
        return lines, num_damaged

    @_by_the_writer
    def keep_lines_until(self, step: int) -> None:
        """Drop the metrics and samples after `step`, which a resumed run will write again."""
        for name in (METRICS, SAMPLES):
            if self.has(name):
                kept = [line for line in self._lines(name) if line.get("step", 0) <= step]
                write_text(self.file(name), "".join(json.dumps(line) + "\n" for line in kept))

    @_by_the_writer
    def log(self, message: str) -> None:
        """Append to log.txt."""
        with open_private(self.file(LOG), os.O_APPEND) as file:
            file.write(self.places.by_name(redact(message.rstrip("\n"))) + "\n")

    @_by_the_writer
    def remove(self, *names: str) -> None:
        """Delete artefacts that no longer hold."""
        for name in names:
            self.file(name).unlink(missing_ok=True)

    @_by_the_writer
    def clear(self) -> None:
        """Delete every artefact of a run, and nothing else. A kill meanwhile leaves no half of it to go on from."""
        for folder in (self.checkpoints, self.model, self.file(TRACKERS)):
            if folder.is_symlink():
                raise RunError(f"{folder}: is a symbolic link. It is not followed; remove it yourself.")
            if folder.is_dir():
                folder.rename(folder.with_name(f".{folder.name}.{os.getpid()}.tmp"))
        for name in (DATA, PLAN, METRICS, SAMPLES, RESULT, COMPARE, VOTES, REPORT, LOG, STATUS, STOP, RECIPE):
            self.file(name).unlink(missing_ok=True)
        self.remove_leftovers()

    @_by_the_writer
    def remove_leftovers(self) -> None:
        """Remove temporary files of writers that were killed. The caller holds the lock of the run."""
        for entry in self.path.iterdir():
            if _LEFTOVER.fullmatch(entry.name) and not entry.is_symlink():
                if entry.is_dir():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()


_LEFTOVER = re.compile(r"\.[A-Za-z.]+\.[A-Za-z0-9_]+\.(tmp|staging|staging-old)")
_WRITERS = {COMPARE: "compare", REPORT: "report", DATA: "train", RESULT: "train", PLAN: "train"}


def check_run_path(out: str | Path) -> Path:
    """`out` when it may be a run directory. Raises RunError on a name or place that is not allowed."""
    path = Path(out)
    name = path.name
    if _ADDRESS.match(str(out)):
        raise RunError(
            f"{out!s}: is an address; expected a folder, because what is written is locked and renamed into place. For "
            "several machines give one that all see, such as NFS or a bucket that is mounted. (data.path may be an "
            "address.)"
        )
    if not RUN_NAME.fullmatch(name) or name in (".", ".."):
        raise RunError(f"{out!s}: a run name has 1 to 64 characters of A-Z a-z 0-9 . _ - (found {name!r}).")
    if ".." in path.parts:
        raise RunError(f"{out!s}: a run directory may not contain '..'. Give the path itself.")
    if path.is_symlink():
        raise RunError(f"{out!s}: is a symbolic link. Give the directory itself.")
    if path.exists() and not path.is_dir():
        raise RunError(f"{out!s}: is a file. Expected a directory, or a name that does not exist yet.")
    return path
