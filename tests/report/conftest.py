"""A run directory with every artefact, written by hand: what a report can show, without training anything."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunesmith.recipe import Recipe
from tunesmith.run.directory import COMPARE, DATA, PLAN, RESULT, STATUS, RunDir

HOSTILE = (
    """</style></title><script>document.title='owned'</script><img src=x onerror="document.title='owned'">'"{{7*7}}"""
)
KEPT = ("prompt", "opening", "unconditional")
"""Values that say what a sample is; with others it would not be shown."""
BASE_TEXT = " is a compelling story about friendship. It explores many themes, and it explores many themes in depth."
TUNED_TEXT = ", a baker finds a letter in the flour, addressed to the man who burned down her mill in the spring."
REAL_TEXT = ", a ferry stops between two islands and the eleven people aboard begin to vote on whose it is."
ROW_TEXT = "In a mountain village a baker finds a letter in the flour, and follows it to the sea."


def write_example(run_dir: RunDir) -> None:
    """Write every artefact that a finished, compared run has."""
    run_dir.write_recipe(
        Recipe(model={"name": "smollm2-135m"}, data={"path": "data/shows.csv", "text": "description", "slice": "genre"})
    )
    run_dir.write_json(PLAN, plan())
    run_dir.write_json(DATA, data())
    for line in metrics():
        run_dir.append_metrics(line)
    run_dir.write_json(RESULT, result())
    run_dir.write_json(COMPARE, comparison())
    run_dir.log("steps      120 of 512 tokens\nstep 120/120  loss 3.012")


def metrics() -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for step in range(121):
        seconds = step * 1.7
        if step % 20 == 0:
            loss = 3.05 + 1.4 * math.exp(-step / 18)
            lines.append(
                {
                    "step": step,
                    "epoch": step / 120,
                    "eval_loss": loss,
                    "eval_perplexity": math.exp(loss),
                    "eval_bits_per_byte": loss / 4.1,
                    "eval_token_accuracy": 0.46 - 0.05 * loss + 0.05,
                    "time": seconds,
                }
            )
        if step:
            lines.append(
                {
                    "step": step,
                    "epoch": step / 120,
                    "loss": 3.0 + 1.5 * math.exp(-step / 15) + 0.12 * math.sin(step * 2.3),
                    "learning_rate": 2e-4 * min(step / 6, (120 - step) / 114),
                    "grad_norm": 2.2 + math.sin(step * 1.7) + (4 if step == 33 else 0),
                    "tokens_per_second": 290 + 12 * math.sin(step),
                    "peak_bytes": 2.9e9,
                    "time": seconds,
                }
            )
    return lines


def plan() -> dict[str, Any]:
    return {
        "method": "full",
        "precision": "fp32",
        "tokens_per_step": 512,
        "gradient_checkpointing": False,
        "num_steps": 120,
        "device": "cpu",
        "reasons": {
            "method": "the recipe says so",
            "tokens_per_step": "20,480 training tokens; about 256 steps wanted",
        },
        "predicted": {"peak_bytes": 2.7e9, "train_seconds": 190, "total_seconds": 230, "tokens_per_second": 300},
        "measured": {"peak_bytes": 2.9e9, "train_seconds": 204, "total_seconds": 251, "tokens_per_second": 290},
    }


def data() -> dict[str, Any]:
    return {
        "kind": "text",
        "how": "text in column 'description'",
        "rows_read": 750,
        "empty": 2,
        "bad_rows": 0,
        "examples": {"empty": ["shows.csv:17", "shows.csv:90"], "bad_rows": []},
        "duplicates": 0,
        "straddling_duplicates": 0,
        "dropped": {"too_long": 0, "not_in_small_run_or_weight": 0},
        "truncated": 0,
        "truncated_tokens": 0,
        "splits": {
            "train": {"documents": 598, "tokens": 21024, "targets": 20426, "fingerprint": "d2ea9147bf41c51d"},
            "eval": {"documents": 150, "tokens": 5301, "targets": 5151, "fingerprint": "fd0d00044d4c1af2"},
            "test": {"documents": 0, "tokens": 0, "targets": 0, "fingerprint": "0"},
        },
        "split_by": "content hash, seed 7",
        "fingerprint": "0123456789abcdef",
        "tokenizer": "fedcba9876543210",
        "max_length": 1024,
        "small": False,
        "encoding": "utf-8",
        "length_histogram": {
            "edges": list(range(20, 46)),
            "counts": [round(60 * math.exp(-(((i - 14) / 4) ** 2))) for i in range(25)],
        },
        "notes": ["Column 'title' is not used."],
    }


def result() -> dict[str, Any]:
    return {
        "train_loss": 3.31,
        "eval_loss": 3.052,
        "eval_loss_base": 4.45,
        "eval_perplexity": 21.16,
        "eval_perplexity_base": 85.6,
        "eval_bits_per_byte": 0.744,
        "eval_bits_per_byte_base": 1.085,
        "eval_token_accuracy": 0.357,
        "eval_token_accuracy_base": 0.288,
        "best_eval_loss": 3.052,
        "best_step": 120,
        "train_tokens": 20426,
        "train_seconds": 204.1,
        "tokens_per_second": 290.0,
        "peak_bytes": 2.9e9,
        "steps": 120,
        "stopped": None,
        "events": [],
    }


def score(
    title: str, better: str, unit: str, base: float, tuned: float, real: float | None, spread: float
) -> dict[str, Any]:
    def interval(value: float, width: float) -> dict[str, float]:
        return {"value": value, "low": value - width, "high": value + width}

    return {
        "title": title,
        "meaning": f"What {title.lower()} means",
        "better": better,
        "unit": unit,
        "base": interval(base, spread),
        "tuned": interval(tuned, spread),
        "real": None if real is None else interval(real, spread),
        "change": interval(tuned - base, 1.2 * spread),
        "gap": None if real is None else interval(tuned - real, 1.2 * spread),
    }


def comparison() -> dict[str, Any]:
    return {
        "version": 1,
        "base": {"name": "smollm2-135m", "revision": None, "licence": "apache-2.0"},
        "tuned": {"name": "example", "adapter": False},
        "settings": {"temperature": 0.8, "top_p": 1.0, "max_new_tokens": 80, "seed": 7, "num_samples": 64},
        "scores": {
            "heldout_loss": score("Held-out loss", "lower", "nats per token", 4.45, 3.052, None, 0.07),
            "heldout_perplexity": score("Perplexity", "lower", "tokens", 85.6, 21.16, None, 2.1),
            "style_auc": score("Told apart from real texts", "lower", "AUC", 0.99, 0.68, None, 0.05),
            "ended": score("Ends by itself", "real", "share", 0.31, 0.98, 1.0, 0.02),
            "length": score("Length", "real", "words", 58.2, 27.1, 28.0, 1.4),
            "repetition": score("Repeats itself", "real", "share", 0.11, 0.01, 0.0, 0.01),
            "copied_texts": score("Copies training rows", "at most real", "share", 0.0, 0.02, 0.016, 0.02),
            "general_loss": score("Loss on general text", "lower", "nats per token", 3.1, 3.3, None, 0.05),
        },
        "telling": ["story of", "explores", "themes"],
        "slices": {
            "column": "genre",
            "rows": [group("Drama", 40, -1.2), group("Comedy", 31, -1.5), group("Fantasy", 9, -0.9)],
        },
        "general": {"rows": [group("code", 5, 0.6), group("poem", 5, 0.1), group("letter", 5, 0.2)]},
        "counts": {"held_out_documents": 150, "scored_samples": 64, "training_rows": 598},
        "samples": [
            *(sample("prompt", "One fine morning") for _ in range(3)),
            *(sample("opening", "On the last day of summer") for _ in range(6)),
            *(sample("unconditional", "") for _ in range(2)),
        ],
        "notes": [],
        "environment": {"tunesmith": "0.1.0", "python": "3.11.7", "torch": "2.13.0", "system": "Linux"},
        "seconds": 61.0,
    }


def group(name: str, documents: int, change: float) -> dict[str, Any]:
    return {
        "name": name,
        "num_documents": documents,
        "num_tokens": 35 * documents,
        "base": {"value": 4.4, "low": 4.3, "high": 4.5},
        "tuned": {"value": 4.4 + change, "low": 4.3 + change, "high": 4.5 + change},
        "change": {"value": change, "low": change - 0.15, "high": change + 0.15},
    }


def sample(kind: str, prompt: str) -> dict[str, Any]:
    start = TUNED_TEXT.index("a baker")
    end = TUNED_TEXT.index(", addressed")
    return {
        "kind": kind,
        "prompt": prompt,
        "row": None if kind == "prompt" else "data/shows.csv:17",
        "base": side(BASE_TEXT, ended=False),
        "tuned": side(TUNED_TEXT, spans=[[start, end]]),
        "real": None if kind == "prompt" else side(REAL_TEXT),
    }


def side(text: str, *, ended: bool = True, spans: list[list[int]] | None = None) -> dict[str, Any]:
    return {
        "text": text,
        "ended": ended,
        "copied": spans or [],
        "copied_share": 0.4 if spans else 0.0,
        "longest_copy": 8 if spans else 3,
        "copied_from": {"row": "data/shows.csv:231", "text": ROW_TEXT} if spans else None,
        "nearest": {"row": "data/shows.csv:231", "text": ROW_TEXT, "similarity": 0.42},
    }


def hostile(value: Any) -> Any:
    """Every text and every free key of an artefact replaced; numbers stay."""
    if isinstance(value, dict):
        changed = {key: hostile(item) for key, item in value.items()}
        return changed | {HOSTILE: HOSTILE} if all(isinstance(item, str) for item in value.values()) else changed
    if isinstance(value, list):
        return [hostile(item) for item in value]
    return HOSTILE + value if isinstance(value, str) and value not in KEPT else value


def make_hostile(run_dir: RunDir) -> None:
    """Put markup into every field of every artefact that a report reads."""
    for name in (PLAN, DATA, RESULT, COMPARE):
        run_dir.write_json(name, hostile(json.loads(run_dir.file(name).read_text(encoding="utf-8"))))
    stopped = run_dir.read_json(RESULT) | {"events": [{"step": 3, "kind": HOSTILE, "note": HOSTILE}]}
    run_dir.write_json(RESULT, stopped)
    run_dir.write_json(STATUS, {"state": HOSTILE})
    run_dir.log(HOSTILE)
    recipe = run_dir.recipe()
    model, data = recipe.model, recipe.data
    changed = {
        "model": model.model_copy(update={"name": HOSTILE}),
        "data": data.model_copy(update={"path": HOSTILE}),
    }
    run_dir.write_recipe(recipe.model_copy(update=changed))


@pytest.fixture
def example_run(tmp_path: Path) -> RunDir:
    run_dir = RunDir(tmp_path / "example")
    run_dir.path.mkdir()
    write_example(run_dir)
    return run_dir


@pytest.fixture
def hostile_run(example_run: RunDir) -> RunDir:
    """The example with `HOSTILE` in every field."""
    make_hostile(example_run)
    return example_run


@pytest.fixture
def example_result() -> dict[str, Any]:
    return result()


@pytest.fixture
def example_comparison() -> dict[str, Any]:
    return comparison()


@pytest.fixture
def make_score() -> Callable[..., dict[str, Any]]:
    return score
