"""Several runs side by side: their metrics, and which recipe values differ. Reads run directories, imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import RunError, TunesmithError
from tunesmith.run.directory import COMPARE, DATA, PLAN, RESULT, STATUS, RunDir

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
    "tokens_per_second": "tokens/s",
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
    recipe: dict[str, Any]
    """Flat recipe values: {"train.epochs": 1.0, ...}."""
    held_out: str
    """Fingerprint of the held-out rows."""
    tokenizer: str


@dataclass(frozen=True)
class RunTable:
    """Runs and, where they are compared, what differs between their recipes."""

    rows: tuple[RunRow, ...]
    differences: dict[str, list[Any]]
    """Recipe values that are not the same in all runs, in the order of `rows`. Empty for a list of runs."""
    notes: tuple[str, ...]
    compared: bool = False

    def to_json(self) -> dict[str, Any]:
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

    def read(name: str) -> dict[str, Any]:
        try:
            return run_dir.read_json(name) if run_dir.has(name) else {}
        except TunesmithError:
            problems.append(name)
            return {}

    result, data, plan, status = read(RESULT), read(DATA), read(PLAN), read(STATUS)
    metrics = {**{key: result.get(key) for key in METRICS}, **_scores(read(COMPARE))}
    recipe: dict[str, Any] = {}
    try:
        recipe = _flat(run_dir.recipe().model_dump(mode="json"))
    except TunesmithError:
        problems.append("recipe.yaml")
    return RunRow(
        name=path.resolve().name,
        path=str(path),
        state=f"damaged ({', '.join(problems)})" if problems else _state(run_dir, result, plan, status),
        model=str(recipe.get("model.name", "")),
        method=str(plan.get("method") or recipe.get("train.method", "")),
        metrics={key: float(value) for key, value in metrics.items() if _is_number(value)},
        recipe=recipe,
        held_out=str(_get(data, "splits", "eval", "fingerprint") or ""),
        tokenizer=str(data.get("tokenizer") or ""),
    )


def _scores(comparison: dict[str, Any]) -> dict[str, Any]:
    return {
        "style_auc": _get(comparison, "scores", "style_auc", "tuned", "value"),
        "copied_texts": _get(comparison, "scores", "copied_texts", "tuned", "value"),
        "general_loss": _get(comparison, "scores", "general_loss", "change", "value"),
    }


def _get(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _state(run_dir: RunDir, result: dict[str, Any], plan: dict[str, Any], status: dict[str, Any]) -> str:
    from tunesmith.run.lock import is_held

    steps = f"step {status.get('step', '?')}/{status.get('num_steps') or plan.get('num_steps') or '?'}"
    if is_held(run_dir):
        return f"running, {steps}"
    if result.get("stopped"):
        return f"stopped ({result['stopped']})"
    if result:
        return "finished"
    return f"not finished, {steps}" if status else "not finished"


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


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    return {f"{section}.{key}": value for section, inner in values.items() for key, value in inner.items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
