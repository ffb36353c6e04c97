"""The demo tells the whole story and does nothing twice."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import tunesmith
from tunesmith import demo as module
from tunesmith.run.directory import RunDir


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is worth seconds, each time it is done."""
    from tunesmith.audit import stage
    from tunesmith.plan import decide, quote

    made: list[str] = []

    def count(where: Any, name: str) -> None:
        real = getattr(where, name)

        def counting(*args: Any, **kwargs: Any) -> Any:
            made.append(name)
            return real(*args, **kwargs)

        monkeypatch.setattr(where, name, counting)

    for where in (decide, quote):
        count(where, "decide")
    count(stage, "audit")
    return made


def test_each_stage_is_shown_and_done_once(
    tiny_llama: Path, shows_csv: Path, tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tunesmith.Recipe(
        model={"name": str(tiny_llama)},
        data={"path": str(shows_csv), "text": "description", "max_rows": 60, "eval_fraction": 0.2},
        train={"max_steps": 2, "max_length": 256, "rehearse": False},
        compare={"prompts": ["One fine morning"], "num_samples": 4, "max_new_tokens": 4},
    )
    monkeypatch.setattr(module, "demo_recipe", lambda *, fast: recipe)
    out = io.StringIO()
    page = module.demo(tmp_path / "demo", fast=True, console=Console(file=out, width=100))
    assert page == tmp_path / "demo" / "report.html"
    rules = [line.strip("\u2500 ") for line in out.getvalue().splitlines() if line.startswith("\u2500")]
    assert [rule.split(":")[0] for rule in rules] == ["doctor", "plan", "data", "train", "compare"]
    assert sorted(calls) == ["audit", "decide"]
    run = RunDir.open(tmp_path / "demo")
    assert run.read_json("plan.json")["measured"] is not None
    assert len(run.read_json("data.json")["findings"]) == 18


def test_one_checkpoint_is_kept() -> None:
    assert module.demo_recipe().save.keep == module.demo_recipe(fast=True).save.keep == 1
