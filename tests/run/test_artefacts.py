"""Artefacts: what a real run writes is what the models say, older and damaged files are read as far as they go."""

from __future__ import annotations

from typing import Any

import pytest

from tunesmith.errors import RunError
from tunesmith.run.artefacts import Artefact, Comparison, DataAccount, Finding, MetricsLine, Plan, Result, Status
from tunesmith.run.directory import RunDir


@pytest.mark.parametrize("kind", [Plan, DataAccount, Result, Comparison, Status])
def test_a_run_writes_every_field_and_no_other(tiny_run: RunDir, kind: type[Artefact]) -> None:
    written = tiny_run.read_json(kind.FILE)
    assert kind.parse(written, kind.FILE).to_json() == written
    assert written["version"] == kind.VERSION


def test_what_is_written_is_read_again(copied_run: RunDir) -> None:
    for kind in (Plan, DataAccount, Result, Comparison):
        before = copied_run.read(kind)
        copied_run.write(before)
        assert copied_run.read(kind) == before


def test_metrics_are_values_and_useless_lines_are_counted(copied_run: RunDir) -> None:
    lines, num_damaged = copied_run.metrics_lines()
    assert num_damaged == 0
    assert len(lines) == len(copied_run.metrics())
    assert [MetricsLine.to_json(line) for line in lines] == copied_run.metrics()
    assert [line.step for line in lines if line.loss is not None] == list(range(1, copied_run.read(Result).steps + 1))
    with copied_run.file("metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": null}\n{"step": 3, "epoch": 1, "time": 2.0, "later": 1}\n{"step": 4, "ep')
    again, num_damaged = copied_run.metrics_lines()
    assert num_damaged == 1
    assert again[:-1] == lines
    assert again[-1].loss is None


def test_an_older_file_lacks_what_came_later_and_a_newer_one_is_refused(tiny_run: RunDir) -> None:
    values = tiny_run.read_json(DataAccount.FILE)
    older = {key: value for key, value in values.items() if key not in ("findings", "version")}
    account = DataAccount.parse({**older, "not known here": 1}, "data.json")
    assert (account.version, account.findings) == (1, ())
    assert account.fingerprint == values["fingerprint"]
    with pytest.raises(RunError, match=r"data\.json: was written by a newer tunesmith \(version 99; .* up to 2\)"):
        DataAccount.parse({**values, "version": 99}, "data.json")


def test_every_problem_of_a_damaged_file_is_named_at_once(tiny_run: RunDir) -> None:
    values = tiny_run.read_json(DataAccount.FILE)
    splits = {**values["splits"], "eval": {**values["splits"]["eval"], "tokens": "many"}}
    with pytest.raises(RunError, match=r"data\.json: .*splits\.eval\.tokens: .*small: .*write it again") as caught:
        DataAccount.parse({**values, "splits": splits, "small": 7}, "data.json")
    assert "rows_read" not in str(caught.value)


def salvaged(values: dict[str, Any]) -> tuple[Comparison, str]:
    found, told = Comparison.salvage(values, "compare.json")
    assert found is not None
    return found, "\n".join(told)


def test_a_whole_file_is_salvaged_whole(tiny_run: RunDir) -> None:
    assert salvaged(tiny_run.read_json(Comparison.FILE)) == (tiny_run.read(Comparison), "")


def test_a_damaged_value_becomes_null_where_that_is_allowed(tiny_run: RunDir) -> None:
    values = tiny_run.read_json(Comparison.FILE)
    values["base"]["licence"] = 7
    values["scores"]["ended"]["gap"] = {"value": "x", "low": 0, "high": 1}
    del values["scores"]["ended"]["real"]["low"]
    found, told = salvaged(values)
    assert found.base.licence is None
    ended = found.scores["ended"]
    assert ended.gap is not None
    assert (ended.gap.value, ended.gap.high) == (None, 1)
    assert ended.real is not None
    assert ended.real.low is None
    assert "base.licence: input should be a valid string" in told


def test_a_part_that_may_not_be_null_goes_with_what_holds_it_and_the_rest_stays(tiny_run: RunDir) -> None:
    before = tiny_run.read(Comparison)
    values = tiny_run.read_json(Comparison.FILE)
    values["scores"]["length"]["title"] = None
    values["samples"][2]["base"]["text"] = ["no text"]
    values["samples"][2]["tuned"] = 3
    values["samples"][5] = 5
    del values["samples"][6]["prompt"]
    values["samples"][7]["tuned"]["copied"] = [[1, 2], [3], [4, 5]]
    values["telling"] = {"a": 1}
    found, told = salvaged(values)
    assert set(found.scores) == set(before.scores) - {"length"}
    kept = [sample for number, sample in enumerate(before.samples) if number not in (2, 5, 6)]
    repaired = kept[4].model_copy(update={"tuned": kept[4].tuned.model_copy(update={"copied": ((1, 2), (4, 5))})})
    assert list(found.samples) == [*kept[:4], repaired, *kept[5:]]
    assert found.telling == ()
    assert "samples.*.base.text" in told


def test_what_cannot_be_used_at_all_is_none(tiny_run: RunDir) -> None:
    values = tiny_run.read_json(Comparison.FILE)
    del values["counts"]
    assert Comparison.salvage(values, "compare.json")[0] is None
    found, told = Comparison.salvage({"scores": 3, "samples": [4]}, "compare.json")
    assert found is None
    assert 1 < len(told) <= 9
    assert Result.salvage({}, "result.json")[0] is None


def test_a_finding_is_a_line() -> None:
    finding = Finding(
        name="leakage",
        status="warns",
        found="3 rows leak.",
        option="data.group: id",
        fix="Or drop them.",
        rows=("a:1",),
    )
    assert finding.line() == "leakage: 3 rows leak. First: a:1. Set data.group: id. Or drop them."
    assert Finding(name="rows", status="fine", found="9 rows.").line() == "rows: 9 rows."
