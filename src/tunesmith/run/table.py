"""Several runs side by side: their metrics, and which recipe values differ. Reads run directories, imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from tunesmith.errors import RunError, TunesmithError
from tunesmith.recipe import Recipe
from tunesmith.run.artefacts import Artefact, Comparison, DataAccount, Plan, Result, Status
from tunesmith.run.directory import RunDir
from tunesmith.run.standing import standing

A = TypeVar("A", bound=Artefact)

LOWER_IS_BETTER = ("eval_loss", "eval_perplexity", "eval_bits_per_byte", "style_auc", "copied_texts", "general_loss")
"""Metrics whose lowest value is marked where runs are compared; one of `HIGHER_IS_BETTER` has its highest marked."""
HIGHER_IS_BETTER = ("eval_token_accuracy",)
METRICS = {
    "eval_loss_base": "held-out loss, base",
    "eval_loss": "held-out loss",
    "eval_perplexity": "perplexity",
    "eval_bits_per_byte": "bits per byte",
    "eval_token_accuracy": "token accuracy",
    "style_auc": "told from real (AUC)",
    "copied_texts": "texts that copy",
    "general_loss": "general text, change",
    "train_seconds": "training time",
    "tokens_per_second": "supervised tokens/s",
    "peak_bytes": "peak memory",
    "steps": "steps",
}


@dataclass(frozen=True)
class RunRow:
    """One run. `metrics` holds those of `METRICS` that are known."""

    name: str
    path: str
    state: str
    """finished, running, stopped (why), not finished, or damaged (what)."""
    model: str
    method: str
    metrics: dict[str, float]
    recipe: dict[str, object]
    """Flat recipe values: {"train.epochs": 1.0, ...}."""
    held_out: str
    """Fingerprint of the held-out rows."""
    tokenizer: str
    dry_run: str = ""
    """`dry run: 100 rows, 22 held out`; empty for a run on all rows."""


@dataclass(frozen=True)
class RunTable:
    """Runs and, where they are compared, what differs between their recipes."""

    rows: tuple[RunRow, ...]
    differences: dict[str, list[object]]
    """Recipe values that are not the same in all runs, in the order of `rows`. Empty for a list of runs."""
    notes: tuple[str, ...]
    compared: bool = False

    def to_json(self) -> dict[str, object]:
        return {
            "runs": [asdict(row) for row in self.rows],
            "differences": self.differences,
            "best": self.best(),
            "notes": list(self.notes),
        }

    def best(self) -> dict[str, str]:
        """Name of the run that alone has the best value of a metric; none where the runs do not compare."""
        found = {}
        for key in _comparable(self.rows):
            values = [(row.metrics[key], row.name) for row in self.rows if key in row.metrics]
            wanted = (max if key in HIGHER_IS_BETTER else min)(values, default=(0.0, ""))[0]
            names = [name for value, name in values if value == wanted]
            if len(values) > 1 and len(names) == 1:
                found[key] = names[0]
        return found


def list_runs(folder: str | Path) -> RunTable:
    """Every run directly in `folder`, the newest first. Raises RunError when the folder does not exist."""
    folder = Path(folder)
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder. Give the folder that holds runs, such as runs.")
    paths = [path for path in folder.iterdir() if RunDir.is_run(path)]
    paths.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    notes = () if paths else (f"{folder}: no runs here yet. `tunesmith train RECIPE --out {folder}/NAME` makes one.",)
    return RunTable(tuple(read_run(path) for path in paths), {}, notes)


def find_runs(path: str | Path) -> list[RunDir]:
    """The run at `path`, or the runs in that folder, the newest first. Raises RunError when there is none."""
    path = Path(path)
    if RunDir.is_run(path):
        return [RunDir.open(path)]
    rows = list_runs(path).rows
    if not rows:
        raise RunError(f"{path}: holds no runs. Give a run directory, or a folder that holds some.")
    return [RunDir.open(row.path) for row in rows]


def compare_runs(paths: Sequence[str | Path]) -> RunTable:
    """Runs side by side with the recipe values that differ. Raises RunError for a path that holds no run."""
    if len(paths) < 2:
        raise RunError(f"compare: found {len(paths)} runs. Expected at least two to set side by side.")
    rows = _distinct_names([read_run(RunDir.open(path).path) for path in paths])
    keys = dict.fromkeys(key for row in rows for key in row.recipe)
    values = {key: [row.recipe.get(key) for row in rows] for key in keys}
    differences = {key: found for key, found in values.items() if any(value != found[0] for value in found)}
    return RunTable(tuple(rows), differences, tuple(_caveats(rows)), compared=True)


def read_run(path: Path) -> RunRow:
    """One run directory as a row; damaged artefacts leave gaps and are named in `state`."""
    run_dir, problems = RunDir(path), list[str]()

    def read(kind: type[A]) -> A | None:
        try:
            return run_dir.read(kind) if run_dir.has(kind.FILE) else None
        except TunesmithError:
            problems.append(kind.FILE)
            return None

    result, data, plan = read(Result), read(DataAccount), read(Plan)
    read(Status)
    comparison, recipe = read(Comparison), dict[str, object]()
    metrics = {**{key: getattr(result, key, None) for key in METRICS}, **_scores(comparison)}
    try:
        recipe = _flat(run_dir.recipe())
    except TunesmithError:
        problems.append("recipe.yaml")
    return RunRow(
        name=path.resolve().name,
        path=str(path),
        state=f"damaged ({', '.join(problems)})" if problems else _state(run_dir),
        model=str(recipe.get("model.name", "")),
        method=plan.method if plan is not None else str(recipe.get("train.method", "")),
        metrics={key: float(value) for key, value in metrics.items() if value is not None},
        recipe=recipe,
        held_out=data.splits["eval"].fingerprint if data is not None and "eval" in data.splits else "",
        tokenizer=data.tokenizer if data is not None else "",
        dry_run=data.dry_run if data is not None else "",
    )


def _scores(comparison: Comparison | None) -> dict[str, float | None]:
    if comparison is None:
        return {}
    wanted = {"style_auc": "tuned", "copied_texts": "tuned", "general_loss": "change"}
    found = {name: getattr(comparison.scores.get(name), side, None) for name, side in wanted.items()}
    return {name: interval.value if interval is not None else None for name, interval in found.items()}


def _state(run_dir: RunDir) -> str:
    """`running, step 40/82`, `finished`, `stopped (SIGTERM)`, `crashed (process 4711 on box is gone; ...)`."""
    found = standing(run_dir)
    if found.is_alive or found.state == "crashed":
        return f"{found.state}, step {found.step}/{found.num_steps or '?'}"
    return found.state if found.state == "finished" or not found.why else f"{found.state} ({found.why})"


def _comparable(rows: Sequence[RunRow]) -> tuple[str, ...]:
    """Metrics that say which run is better. Each was measured on held-out rows, so those must be the same."""
    if len({row.held_out for row in rows}) > 1:
        return ()
    if len({row.tokenizer for row in rows}) > 1:
        return ("eval_bits_per_byte", "style_auc", "copied_texts")
    return (*LOWER_IS_BETTER, *HIGHER_IS_BETTER)


def _caveats(rows: Sequence[RunRow]) -> Iterator[str]:
    if len({row.held_out for row in rows}) > 1:
        yield "The runs were scored on different held-out rows: their scores do not compare."
    elif len({row.tokenizer for row in rows}) > 1:
        yield "The runs have different tokenizers: compare bits per byte, not loss or perplexity."
    for row in rows:
        if row.dry_run:
            yield f"{row.name} was a {row.dry_run}."
    waiting = [row.name for row in rows if row.state != "finished"]
    if waiting:
        yield f"Not finished: {', '.join(waiting)}."
    without = [row.name for row in rows if row.state == "finished" and "style_auc" not in row.metrics]
    if without:
        yield f"No style or copying scores for {', '.join(without)}: `tunesmith compare RUN` writes them."


def _distinct_names(rows: list[RunRow]) -> list[RunRow]:
    """Paths instead of names where two runs are called the same."""
    names = [row.name for row in rows]
    return [RunRow(**{**vars(row), "name": row.path}) if names.count(row.name) > 1 else row for row in rows]


def _flat(recipe: Recipe) -> dict[str, object]:
    values = recipe.model_dump(mode="json")
    return {f"{section}.{key}": value for section, inner in values.items() for key, value in inner.items()}
