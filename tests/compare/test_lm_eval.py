"""The lm-eval extra: a clear message without it, its API used as it is, its results in plain names."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from tunesmith.compare.lm_eval import evaluate_tasks
from tunesmith.errors import ModelError, RunError


def test_without_lm_eval_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'tunesmith\[lm-eval\]'"):
        evaluate_tasks("smollm2-135m", ["hellaswag"])


@pytest.fixture
def fake_lm_eval(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands in for the package: remembers what it was given."""
    seen: dict[str, Any] = {}

    class HFLM:
        def __init__(self, **options: Any) -> None:
            seen["model"] = options

    class TaskManager:
        def __init__(self, include_path: str | None = None) -> None:
            self.all_tasks = ["hellaswag", "arc_easy", "arc_challenge"]

    def simple_evaluate(**options: Any) -> dict[str, Any]:
        seen["options"] = options
        return {
            "results": {
                "arc_easy": {
                    "alias": "arc_easy",
                    "acc,none": 0.41,
                    "acc_stderr,none": 0.02,
                    "exact_match,strict-match": 0.3,
                }
            }
        }

    modules = {
        "lm_eval": types.ModuleType("lm_eval"),
        "lm_eval.models": types.ModuleType("lm_eval.models"),
        "lm_eval.models.huggingface": types.ModuleType("lm_eval.models.huggingface"),
        "lm_eval.tasks": types.ModuleType("lm_eval.tasks"),
    }
    modules["lm_eval"].simple_evaluate = simple_evaluate  # type: ignore[attr-defined]
    modules["lm_eval.models.huggingface"].HFLM = HFLM  # type: ignore[attr-defined]
    modules["lm_eval.tasks"].TaskManager = TaskManager  # type: ignore[attr-defined]
    for name, module in modules.items():
        module.__spec__ = importlib.util.spec_from_loader(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    return seen


def test_results_come_back_in_plain_names(fake_lm_eval: dict[str, Any], tiny_llama: Path) -> None:
    results = evaluate_tasks(str(tiny_llama), ["arc_easy"], limit=5, seed=3)
    assert results == {"arc_easy": {"acc": 0.41, "acc_stderr": 0.02, "exact_match (strict-match)": 0.3}}
    options = fake_lm_eval["options"]
    assert (options["tasks"], options["limit"], options["fewshot_random_seed"]) == (["arc_easy"], 5, 3)
    assert type(fake_lm_eval["model"]["pretrained"]).__name__ == "LlamaForCausalLM"


def test_an_unknown_task_is_refused_before_the_model_loads(fake_lm_eval: dict[str, Any]) -> None:
    with pytest.raises(RunError, match=r"Did you mean arc_easy"):
        evaluate_tasks("no-such-model", ["arc_eazy"])
    with pytest.raises(RunError, match="no task named"):
        evaluate_tasks("no-such-model", [])
    assert "options" not in fake_lm_eval


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed")
@pytest.mark.slow
def test_the_real_lm_eval_scores_a_task_of_ones_own(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"q": "One and one is", "good": " two", "bad": " fish"}\n' * 4, "utf-8")
    (tmp_path / "sums.yaml").write_text(
        f"""task: tunesmith_sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path}/rows.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_choice: "{{{{[good, bad]}}}}"
doc_to_target: 0
metric_list:
  - metric: acc
""",
        "utf-8",
    )
    results = evaluate_tasks(str(tiny_llama), ["tunesmith_sums"], task_folder=tmp_path)
    accuracy = results["tunesmith_sums"]["acc"]
    assert isinstance(accuracy, float)
    assert 0 <= accuracy <= 1
