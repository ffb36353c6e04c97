"""MANIFEST.json of a checkpoint: its files, and what it knows of its run."""

from __future__ import annotations

from typing import ClassVar, Literal

from tunesmith.run.artefacts.plan import Plan
from tunesmith.run.artefacts.record import Artefact, JsonObject, Record
from tunesmith.run.artefacts.result import EvalScores


class FileEntry(Record):
    """The size and the hash of one file of a checkpoint."""

    bytes: int
    sha256: str


class CheckpointInfo(Record):
    """What a checkpoint knows of its run."""

    data: str
    """Fingerprint of the data, and of the model before training."""
    model: str
    recipe: JsonObject
    plan: Plan
    environment: dict[str, str]
    eval: EvalScores | None


class Manifest(Artefact):
    """checkpoints/step-N/MANIFEST.json: every file with its size and hash; written last."""

    FILE: ClassVar[str] = "MANIFEST.json"
    VERSION: ClassVar[int] = 2

    format: Literal["tunesmith-checkpoint"]
    version: int
    step: int
    info: JsonObject
    """A `CheckpointInfo`."""
    files: dict[str, FileEntry]
    manifest_sha256: str
