"""Checkpoints that survive a kill at any byte, a full disk and a flipped bit.

A save goes: room on disk checked -> files written into a hidden staging folder -> each file hashed and fsynced ->
MANIFEST.json (name, size and sha256 of every file) last -> one atomic rename to `step-N` -> older checkpoints removed.
A reader takes only a folder whose manifest lists every file with the size and sha256 found, so a folder is either whole
or not a checkpoint. What the files hold is in state.py: safetensors and JSON, never a pickle.

    checkpoints/step-40/MANIFEST.json  model.safetensors  optimizer.safetensors  ...
    checkpoints/step-50/MANIFEST.json  model/shard-00001-model-00001-of-00001.safetensors  ...    of a sharded run
    checkpoints/.step-60.4711.tmp/     a save that did not end; the next save removes it
    checkpoints/step-60.broken/        was in the way of a new step-60 and held no manifest of ours; never removed
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tunesmith.disk import PLAIN_FILE, disk_errors, finite
from tunesmith.errors import RunError
from tunesmith.redact import redact
from tunesmith.run.artefacts import FileEntry, JsonObject, Manifest
from tunesmith.units import format_bytes

MANIFEST = "MANIFEST.json"
FORMAT = "tunesmith-checkpoint"
MAX_MANIFEST_BYTES = 10_000_000

_STEP = re.compile(r"step-(0|[1-9][0-9]{0,11})")
_STAGING = re.compile(r"\.step-[0-9]+\.[0-9]+\.(?:tmp|old)")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose every byte was checked against its manifest."""

    path: Path
    manifest: Manifest

    @property
    def step(self) -> int:
        return self.manifest.step

    @property
    def info(self) -> JsonObject:
        """What the caller of `save_checkpoint` gave: fingerprints, plan, scores."""
        return self.manifest.info

    def file(self, name: str) -> Path:
        """The path of a file that the manifest lists. Raises RunError on any other name."""
        if name not in self.manifest.files:
            listed = ", ".join(sorted(self.manifest.files))
            raise RunError(f"{self.path}: holds no {name} (found {listed}). It was written by another version.")
        return self.path / name


def save_checkpoint(
    root: Path,
    step: int,
    write: Callable[[Path], None],
    *,
    info: JsonObject,
    keep: int,
    best_step: int | None = None,
    required_bytes: int | None = None,
) -> Path:
    """Write `root/step-N` so that it either exists whole or not at all; then remove what is older than needed.

    `write(folder)` writes the files. `required_bytes` is the predicted size (default: that of the newest checkpoint);
    the room for it is checked first. Afterwards `best_step` and the last `keep` stay. A step that already has a valid
    checkpoint is not written again. Costs one write, one read from the page cache for the hash, and one fsync a file.

    Raises RunError when the disk is full or cannot be written; every earlier checkpoint is then untouched.
    """
    _make_root(root)
    final = root / f"step-{step}"
    if is_whole(final):
        return final
    remove_staging(root)
    if required_bytes is None:
        required_bytes = max((_num_bytes(root / f"step-{old}") for old in checkpoint_steps(root)), default=0)
    check_room(root, required_bytes)
    staging = root / f".step-{step}.{os.getpid()}.tmp"
    staging.mkdir(mode=0o700)
    try:
        with disk_errors(root / final.name, _say_last_good(root)):
            write(staging)
            _seal(staging, step, info)
            _move_aside(final)
            staging.rename(final)
            _sync_folder(root)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    if problems := _problems(final, hashes=False):
        raise RunError(f"{final}: does not read back as written: {problems[0]}. Older checkpoints were kept.")
    prune(root, newest=step, keep=keep, best_step=best_step)
    return final


def newest_valid_checkpoint(root: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint whose files match their hashes, and a line for each broken thing passed on the way.

    (None, []) when no save ever ended: the run starts at step 0. Raises RunError when checkpoints exist but none is
    valid, so that a damaged run never starts over silently.
    """
    if root.is_symlink():
        raise RunError(f"{root}: is a symbolic link. Checkpoints are read from a directory of the run itself.")
    problems: list[str] = []
    steps = checkpoint_steps(root)
    for step in reversed(steps):
        path = root / f"step-{step}"
        found = _problems(path, hashes=True)
        if not found:
            return Checkpoint(path, read_manifest(path)), problems
        problems += [f"{path}: {problem}" for problem in found]
    if steps:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise RunError(
            f"{root}: {len(steps)} checkpoint{'s' if len(steps) > 1 else ''}, none valid:\n{lines}\n"
            "Training was not started over. Restore the files from a copy, or start afresh with --fresh."
        )
    return None, problems


def checkpoint_steps(root: Path) -> list[int]:
    """The steps that have a folder, valid or not, in rising order."""
    if not root.is_dir():
        return []
    return sorted(int(match[1]) for entry in root.iterdir() if (match := _STEP.fullmatch(entry.name)))


def newest_info(root: Path) -> JsonObject | None:
    """What the newest manifest that is whole says of its run; the files that it lists are not looked at."""
    for step in reversed(checkpoint_steps(root)):
        with suppress(ValueError):
            return read_manifest(root / f"step-{step}").info
    return None


def last_good(root: Path) -> Path | None:
    """The newest checkpoint whose files are all there with their sizes; their content is not read."""
    folders = (root / f"step-{step}" for step in reversed(checkpoint_steps(root)))
    return next((folder for folder in folders if not _problems(folder, hashes=False)), None)


def check_room(folder: Path, required_bytes: int) -> None:
    """Raise RunError when the disk of `folder` has no room for `required_bytes`. Says how much to free."""
    free = shutil.disk_usage(folder).free
    if free < required_bytes:
        missing = 1.05 * (required_bytes - free) + 1e6
        raise RunError(
            f"{folder}: a checkpoint needs {format_bytes(required_bytes)}, the disk has {format_bytes(free)} free. "
            f"Free at least {format_bytes(missing)} and run the same command again. {_say_last_good(folder)}"
        )


def prune(root: Path, *, newest: int, keep: int, best_step: int | None) -> list[int]:
    """Remove checkpoints before `newest` but for the last `keep` and the best. Returns the steps removed.

    Only folders that hold our manifest are removed, and one with a missing or short file does not count as kept.
    """
    kept, removed = 0, []
    for step in reversed(checkpoint_steps(root)):
        path = root / f"step-{step}"
        if step > newest or path.is_symlink() or not _is_ours(path):
            continue
        whole = not _problems(path, hashes=False)
        if whole and kept < keep:
            kept += 1
        elif not (whole and step == best_step):
            _remove(path)
            removed.append(step)
    return removed


def remove_staging(root: Path) -> None:
    """Remove what saves that did not end have left. The caller holds the lock of the run."""
    for entry in root.iterdir():
        if _STAGING.fullmatch(entry.name) and entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)


def _make_root(root: Path) -> None:
    if root.is_symlink():
        raise RunError(f"{root}: is a symbolic link. Checkpoints are written to a directory of the run itself.")
    root.mkdir(mode=0o700, exist_ok=True)


def _seal(staging: Path, step: int, info: JsonObject) -> None:
    """Make the staging folder durable and write its manifest, the last file, over it."""
    files, folders = _walk(staging)
    with ThreadPoolExecutor(max_workers=8) as pool:  # hashlib and fsync both release the GIL
        synced = [pool.submit(_sync_file, staging / name) for name in files]
        entries = list(pool.map(lambda name: _entry(staging / name), files))
        for future in synced:
            future.result()
    manifest: JsonObject = {
        "format": FORMAT,
        "version": Manifest.VERSION,
        "step": step,
        "info": json.loads(redact(json.dumps(finite(info)))),
        "files": {name: entry.to_json() for name, entry in zip(files, entries, strict=True)},
    }
    manifest["manifest_sha256"] = _digest_of(manifest)
    path = staging / MANIFEST
    path.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    _sync_file(path)
    for folder in (*(staging / name for name in folders), staging):
        _sync_folder(folder)


def _walk(folder: Path) -> tuple[list[str], list[str]]:
    """Relative names of the files and folders below `folder`, deepest folders first; the manifest is left out."""
    files, folders = [], []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            files.append(name)  # opened with O_NOFOLLOW, which refuses it
        elif path.is_dir():
            folders.append(name)
        elif name != MANIFEST:
            files.append(name)
    return files, folders[::-1]


def _entry(path: Path) -> FileEntry:
    with os.fdopen(os.open(path, os.O_RDONLY | PLAIN_FILE), "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileEntry(bytes=file.tell(), sha256=digest)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | PLAIN_FILE)
    try:
        if hasattr(os, "fchmod"):  # not on Windows
            os.fchmod(descriptor, 0o600)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest_of(manifest: JsonObject) -> str:
    """sha256 of the manifest without its own line, so that a flipped bit in the manifest itself is seen."""
    rest = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint. Raises ValueError that says what is wrong with it."""
    path = folder / MANIFEST
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | PLAIN_FILE), "rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
        if len(data) > MAX_MANIFEST_BYTES:
            raise ValueError(f"{MANIFEST} is larger than {MAX_MANIFEST_BYTES} bytes")
        manifest = json.loads(data)
    except FileNotFoundError:
        raise ValueError(f"{MANIFEST} is missing: the save did not end, or the file was removed") from None
    except OSError as error:
        raise ValueError(f"{MANIFEST} cannot be read ({error.strerror})") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError(f"{MANIFEST} is damaged: it is not valid JSON") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"{MANIFEST} is not a manifest of a tunesmith checkpoint")
    if manifest.get("version") != Manifest.VERSION:
        raise ValueError(
            f"{MANIFEST} has version {manifest.get('version')!r}, this tunesmith reads {Manifest.VERSION}: go on with "
            "the tunesmith that began the run"
        )
    if manifest.get("manifest_sha256") != _digest_of(manifest):
        raise ValueError(f"{MANIFEST} is damaged: its content does not match its own sha256")
    try:
        found = Manifest.parse(manifest, MANIFEST)
    except RunError as error:
        raise ValueError(str(error)) from None
    if not found.files:
        raise ValueError(f"{MANIFEST} lists no files")
    for name in found.files:
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or name != pure.as_posix():
            raise ValueError(f"{MANIFEST} names {name!r}, which is outside the checkpoint")
    return found


def _problems(folder: Path, *, hashes: bool) -> list[str]:
    """What is wrong with a checkpoint: file, expected, found. Empty when it is whole.

    Without `hashes` only names and sizes are compared, which reads no file but the manifest.
    """
    if folder.is_symlink() or not folder.is_dir():
        return ["is not a directory (symbolic links are not followed)"]
    try:
        manifest = read_manifest(folder)
    except ValueError as error:
        return [str(error)]
    if folder.name != f"step-{manifest.step}" and _STEP.fullmatch(folder.name):
        return [f"{MANIFEST} is of step {manifest.step}: the folder was renamed"]

    def problem(item: tuple[str, FileEntry]) -> str | None:
        return _file_problem(folder, *item, hashes=hashes)

    with ThreadPoolExecutor(max_workers=8) as pool:
        problems = [found for found in pool.map(problem, manifest.files.items()) if found]
    return problems or _strangers(folder, manifest)


def _strangers(folder: Path, manifest: Manifest) -> list[str]:
    """What the manifest does not list in the folders of shards, which are read whole."""
    below = {name.rpartition("/")[0] for name in manifest.files} - {""}
    found = {f"{sub}/{path.name}" for sub in below if (folder / sub).is_dir() for path in (folder / sub).iterdir()}
    strangers = sorted(found - manifest.files.keys() - below)
    return [f"{name} is not of this checkpoint: remove it" for name in strangers]


def _file_problem(folder: Path, name: str, expected: FileEntry, *, hashes: bool) -> str | None:
    path = folder / name
    if any(part.is_symlink() for part in (path, *path.parents[: len(PurePosixPath(name).parts) - 1])):
        return f"{name} is behind a symbolic link, which is not followed"
    try:
        if path.stat().st_size != expected.bytes:
            return f"{name} is cut short or changed: expected {expected.bytes} bytes, found {path.stat().st_size}"
        if hashes and (found := _entry(path).sha256) != expected.sha256:
            return f"{name} is damaged: expected sha256 {expected.sha256[:12]}, found {found[:12]}"
    except FileNotFoundError:
        return f"{name} is missing: expected {expected.bytes} bytes"
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"
    return None


def is_whole(folder: Path) -> bool:
    """Whether every file that the manifest lists is there with its hash."""
    return folder.is_dir() and not _problems(folder, hashes=True)


def _is_ours(folder: Path) -> bool:
    try:
        return bool(read_manifest(folder))
    except ValueError:
        return False


def _num_bytes(folder: Path) -> int:
    try:
        return sum(entry.bytes for entry in read_manifest(folder).files.values())
    except ValueError:
        return 0


def _remove(folder: Path) -> None:
    """Delete a checkpoint. It stops being one in a single rename first, so a kill leaves no half of it."""
    hidden = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    folder.rename(hidden)
    shutil.rmtree(hidden)


def _move_aside(folder: Path) -> None:
    """Make place for a checkpoint where a broken one stands."""
    if folder.is_symlink():
        raise RunError(f"{folder}: is a symbolic link. It is not followed; remove it yourself.")
    if not folder.exists():
        return
    if _is_ours(folder):
        _remove(folder)
        return
    number = 0
    aside = folder.with_name(f"{folder.name}.broken")
    while aside.exists():
        number += 1
        aside = folder.with_name(f"{folder.name}.broken-{number}")
    folder.rename(aside)


def _say_last_good(root: Path) -> str:
    good = last_good(root)
    return f"Nothing is lost: the last good checkpoint is {good}." if good else "No earlier checkpoint exists."
