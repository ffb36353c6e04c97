"""What a run took, beside what was planned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tunesmith.plan.measured import record_measured
from tunesmith.run.directory import PLAN, RunDir

RESULT = {"peak_bytes": 17.1e9, "train_seconds": 290.0, "total_seconds": 330.0, "tokens_per_second": 310.0}


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "run")


def recorded(run_dir: RunDir, predicted: dict[str, Any], result: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    run_dir.write_json(PLAN, {"method": "full", "predicted": predicted})
    line = record_measured(run_dir, result)
    return line, run_dir.read_json(PLAN)


def test_memory_time_and_throughput_stand_beside_the_forecast(run_dir: RunDir) -> None:
    predicted = {"peak_bytes": 17.3e9, "train_seconds": 300.0, "total_seconds": 360.0, "tokens_per_second": 300.0}
    line, plan = recorded(run_dir, predicted, RESULT)
    assert line == "planned 17.3 GB, 6 min and 300 tokens/s, took 17.1 GB, 6 min and 310 tokens/s"
    assert plan["measured"]["tokens_per_second"] == 310.0
    assert plan["measured"]["of_predicted"]["peak_bytes"] == pytest.approx(17.1 / 17.3)
    assert plan["method"] == "full"
    assert plan["predicted"] == predicted


def test_what_was_not_planned_is_only_told(run_dir: RunDir) -> None:
    line, plan = recorded(run_dir, {}, RESULT)
    assert line.startswith("took 17.1 GB, ")
    assert plan["measured"]["of_predicted"] == {}


def test_a_run_without_measurements_says_so(run_dir: RunDir) -> None:
    assert recorded(run_dir, {}, {})[0] == "nothing was measured"
