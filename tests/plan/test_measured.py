"""What a run took, beside what was planned."""

from __future__ import annotations

from typing import Any

import pytest

from tunesmith.forecast.time import Measured
from tunesmith.plan.measured import record_measured, refit_predicted
from tunesmith.run.artefacts import MeasuredRun, Plan, Result
from tunesmith.run.directory import RunDir

TOOK = {"peak_bytes": 17_100_000_000, "train_seconds": 290.0, "total_seconds": 330.0, "tokens_per_second": 310.0}
PLANNED = {"peak_bytes": 17_300_000_000, "train_seconds": 300.0, "total_seconds": 360.0, "tokens_per_second": 300.0}


@pytest.fixture
def result(tiny_run: RunDir) -> Result:
    return tiny_run.read(Result).model_copy(update=TOOK)


def recorded(run_dir: RunDir, result: Result, **planned: Any) -> tuple[str, MeasuredRun]:
    plan = run_dir.read(Plan)
    assert plan.predicted is not None
    predicted = plan.predicted.model_copy(update=planned) if planned else None
    run_dir.write(plan.model_copy(update={"predicted": predicted, "measured": None}))
    line = record_measured(run_dir, result)
    after = run_dir.read(Plan)
    assert after.measured is not None
    assert after == plan.model_copy(update={"predicted": predicted, "measured": after.measured})
    return line, after.measured


def test_memory_time_and_throughput_stand_beside_the_forecast(copied_run: RunDir, result: Result) -> None:
    line, measured = recorded(copied_run, result, **PLANNED)
    assert line == "planned 17.3 GB, 6 min and 300 tokens/s, took 17.1 GB, 6 min and 310 tokens/s"
    assert measured.tokens_per_second == 310.0
    assert measured.of_predicted["peak_bytes"] == pytest.approx(17.1 / 17.3)


def test_what_was_not_planned_is_only_told(copied_run: RunDir, result: Result) -> None:
    line, measured = recorded(copied_run, result)
    assert line.startswith("took 17.1 GB, ")
    assert measured.of_predicted == {}


def test_a_speed_that_was_not_measured_is_left_out(copied_run: RunDir, result: Result) -> None:
    line, measured = recorded(copied_run, result.model_copy(update={"tokens_per_second": None}), **PLANNED)
    assert line == "planned 17.3 GB and 6 min, took 17.1 GB and 6 min"
    assert set(measured.of_predicted) == {"peak_bytes", "train_seconds", "total_seconds"}


def test_real_steps_change_what_is_predicted_and_no_decided_value(copied_run: RunDir) -> None:
    plan = copied_run.read(Plan)
    assert plan.predicted is not None
    refit_predicted(copied_run, [Measured(100, 0.2), Measured(300, 0.6)], 10_000)
    after = copied_run.read(Plan)
    assert after.predicted is not None
    assert after.decided() == plan.decided()
    assert after.reasons == plan.reasons
    assert after.predicted.train_seconds == after.predicted.time.train_seconds == pytest.approx(20.0)
    before, now = plan.predicted.time, after.predicted.time
    assert after.predicted.total_seconds == pytest.approx(20.0 + before.eval_seconds + before.save_seconds)
    assert now.tokens_per_second * 20.0 == pytest.approx(before.tokens_per_second * before.train_seconds)
    assert after.predicted.memory == plan.predicted.memory


def test_without_a_measurement_the_forecast_stays(copied_run: RunDir) -> None:
    plan = copied_run.read(Plan)
    refit_predicted(copied_run, [], 10_000)
    assert copied_run.read(Plan) == plan
