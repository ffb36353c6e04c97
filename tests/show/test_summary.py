"""The report in short: the verdict, what the audit warned of, scores and samples; nothing of it moves a cursor."""

from __future__ import annotations

import io

from rich.console import Console

from tunesmith.report.verdict import judge
from tunesmith.run.artefacts import Comparison, DataAccount, Finding, Result
from tunesmith.run.directory import COMPARE, DATA, RESULT, RunDir
from tunesmith.show.summary import print_summary


def printed(run_dir: RunDir) -> str:
    out = io.StringIO()
    print_summary(run_dir, Console(file=out, width=400))
    return out.getvalue()


def test_a_compared_run_is_told_in_short(tiny_run: RunDir) -> None:
    result, comparison = tiny_run.read(Result), tiny_run.read(Comparison)
    text = printed(tiny_run)
    assert judge(result, comparison).sentence in text
    assert all(score.title in text for score in comparison.scores.values())
    assert "One fine morning" in text


def test_what_the_audit_warns_of_is_told_and_what_is_fine_is_not(copied_run: RunDir) -> None:
    findings = (
        Finding(name="rows", status="fine", found="80 rows.", number=1),
        Finding(name="leak\x1b[2J", status="warns", found="3 rows.", option="data.near_duplicates: true", number=2),
    )
    copied_run.write(copied_run.read(DataAccount).model_copy(update={"findings": findings}))
    text = printed(copied_run)
    assert "- data: leak" in text
    assert "3 rows. Set data.near_duplicates: true." in text
    assert "80 rows." not in text
    assert "\x1b" not in text


def test_parts_that_are_missing_are_left_out(copied_run: RunDir) -> None:
    for name in (COMPARE, DATA, RESULT):
        copied_run.file(name).unlink()
    assert "This run has no result yet" in printed(copied_run)
