"""Public benchmarks through lm-eval's own API: an extra, installed with `pip install 'tunesmith[lm-eval]'`."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

from tunesmith.errors import ModelError, RunError

TaskScores = dict[str, dict[str, float | str]]
"""{task: {metric: value}}, as lm-eval names them."""


def evaluate_tasks(
    run_or_model: str,
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    num_fewshot: int | None = None,
    batch_size: int = 8,
    seed: int = 7,
    task_folder: str | Path | None = None,
) -> TaskScores:
    """Score RUN_OR_MODEL on tasks of lm-eval: {task: {metric: value, metric_stderr: value}}.

    limit: documents of each task. task_folder: YAML tasks of your own. Most tasks download their data set.
    Raises ModelError when lm-eval is not installed, and RunError for a task that it does not know.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise ModelError("eval --tasks: lm-eval is not installed. Run: pip install 'tunesmith[lm-eval]'")
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from tunesmith.models.load import load_for_generation

    manager = TaskManager(include_path=str(task_folder) if task_folder is not None else None)
    _check_tasks(tasks, manager.all_tasks)
    model, tokenizer = load_for_generation(run_or_model)
    scored = simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer.backend, batch_size=batch_size),
        tasks=list(tasks),
        num_fewshot=num_fewshot,
        limit=limit,
        task_manager=manager,
        log_samples=False,
        random_seed=seed,
        numpy_random_seed=seed,
        torch_random_seed=seed,
        fewshot_random_seed=seed,
    )
    return {task: _metrics(values) for task, values in (scored or {}).get("results", {}).items()}


def _check_tasks(tasks: Sequence[str], known: Sequence[str]) -> None:
    if not tasks:
        raise RunError("eval --tasks: no task named. Expected names of lm-eval, such as hellaswag or arc_easy.")
    for task in tasks:
        if task not in known:
            close = difflib.get_close_matches(task, known, n=3)
            hint = f"Did you mean {', '.join(close)}?" if close else "`lm-eval ls tasks` lists them."
            raise RunError(f"eval --tasks: lm-eval knows no task {task!r}. {hint}")


def _metrics(values: Mapping[str, float | str]) -> dict[str, float | str]:
    """`acc,none` as `acc`; names of filters other than none stay: `exact_match (strict-match)`."""
    found = {}
    for key, value in values.items():
        name, _, kind = key.partition(",")
        if name in ("alias", "sample_len", "sample_count", "name"):
            continue
        found[name if kind in ("", "none") else f"{name} ({kind})"] = value
    return found
