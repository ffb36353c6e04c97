"""Whether a run may go on: the same recipe, data and model as before, or values that are safe to change."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from tunesmith.errors import RecipeError, RunError
from tunesmith.models.find import ModelSource
from tunesmith.recipe import Recipe
from tunesmith.redact import redact
from tunesmith.run.artefacts import CheckpointInfo, Plan, Result
from tunesmith.run.directory import RunDir
from tunesmith.training.checkpoints.checkpoint import Checkpoint, newest_info, newest_valid_checkpoint

SAFE_CHANGES = (
    "train.epochs",
    "train.max_steps",
    "train.early_stopping",
    "train.report_to",
    "train.rehearse",
    "eval.",
    "save.",
    "compare.",
    "export.",
    "notify.",
)
"""Recipe values that a run may change when it goes on; the steps that are done stay as they were."""
NUM_SAMPLES = 64
SAMPLE_BYTES = 4096


def find_checkpoint(
    run_dir: RunDir, recipe: Recipe, fingerprints: Mapping[str, str], say: Callable[[str], None], *, force: bool
) -> Checkpoint | None:
    """The checkpoint that the run goes on from, or None when it begins. Says what is passed over or was moved.

    Raises RunError when no checkpoint is valid, or (without `force`) when recipe, data or model are others. The files
    beside the checkpoints are not asked.
    """
    from tunesmith.training.checkpoints.state import environment_changes

    checkpoint, problems = newest_valid_checkpoint(run_dir.checkpoints)
    for problem in problems:
        say(f"passed over a broken checkpoint: {problem}")
    if checkpoint is None:
        return None
    if not force:
        _check_same(checkpoint, recipe, fingerprints, run_dir.path)
    if changes := environment_changes(begun(checkpoint).environment):
        say(
            f"{checkpoint.path.name} was written under other conditions ({'; '.join(changes)}). The run goes on; its "
            "numbers may differ in the last digits from those of a run that was never stopped."
        )
    return checkpoint


def begun(checkpoint: Checkpoint) -> CheckpointInfo:
    """What a checkpoint knows of its run. Raises RunError when it was written otherwise than by training."""
    return CheckpointInfo.parse(checkpoint.info, str(checkpoint.path))


def finished_result(run_dir: RunDir, step: int, num_steps: int, *, may_end_early: bool = False) -> Result | None:
    """result.json of a run that was finished with this length; it is written after the model. None: train on.

    may_end_early: as early as it has ended, if it has.
    """
    if (step < num_steps and not may_end_early) or not run_dir.model.is_dir():
        return None
    result = run_dir.find(Result)  # missing or damaged: the last checkpoint holds what it takes to write it again
    if result is None or result.stopped is not None or result.steps != step:
        return None
    return result if step >= num_steps or result.ended_early else None


def is_as_patient(plan: Plan, checkpoint: Checkpoint) -> bool:
    """Whether a run ends as early as it was begun to, or earlier."""
    now, before = plan.early_stopping, begun(checkpoint).plan.early_stopping
    return now is not None and before is not None and now <= before


def begun_recipe(run_dir: RunDir) -> Recipe | None:
    """The recipe that a run was begun with; None when it cannot be read.

    A manifest comes before recipe.yaml, because it knows when it is damaged: half a recipe is another recipe.
    """
    info = newest_info(run_dir.checkpoints)
    with suppress(RecipeError):
        return run_dir.recipe() if info is None else Recipe.parse(info["recipe"], str(run_dir.checkpoints))
    return None


def check_recipe(path: Path, old: Recipe, new: Recipe) -> None:
    """Raise RunError with the difference when the run at `path` may not go on with the recipe `new`."""
    unsafe = [line for line in recipe_difference(old, new) if not line.startswith(SAFE_CHANGES)]
    if unsafe:
        lines = "\n".join(f"  {line}" for line in unsafe)
        raise RunError(
            f"{path}: holds a run of another recipe:\n{lines}\n"
            "Choose another --out, start over with --fresh, or go on with the new values with --force."
        )


def recipe_difference(old: Recipe, new: Recipe) -> list[str]:
    """A line for each value that differs. Secrets are compared as they were written: redacted."""
    before, after = ({key: redact(repr(value)) for key, value in _flat_values(recipe).items()} for recipe in (old, new))
    return [f"{key}: {before.get(key)} -> {after[key]}" for key in after if before.get(key) != after[key]]


def model_fingerprint(source: ModelSource) -> str:
    """sha256 over the config and of each weight file its name, size and 64 samples spread over it.

    Cheap, whatever the size; another model differs in it, and so does the same model after more training.
    """
    folder = Path(source.path)
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        num_bytes = path.stat().st_size
        digest.update(f"{path.name}:{num_bytes}\n".encode())
        with path.open("rb") as file:
            for sample in range(NUM_SAMPLES):
                file.seek(num_bytes * sample // NUM_SAMPLES)
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def _check_same(checkpoint: Checkpoint, recipe: Recipe, fingerprints: Mapping[str, str], path: Path) -> None:
    before = begun(checkpoint)
    check_recipe(path, Recipe.parse(before.recipe, str(checkpoint.path)), recipe)
    for what, old in (("data", before.data), ("model", before.model)):
        if old != fingerprints[what]:
            raise RunError(
                f"{path}: the {what} changed since {checkpoint.path.name} was written "
                f"(fingerprint {old[:12]}, now {fingerprints[what][:12]}). "
                f"Bring the old {what} back, start over with --fresh, or go on with --force."
            )


def _flat_values(recipe: Recipe) -> dict[str, object]:
    """{"train.epochs": 1.0, ...}."""
    return {
        f"{section}.{key}": value
        for section, values in recipe.model_dump(mode="json").items()
        for key, value in values.items()
    }
