"""Findings of the doctor, the audit and the report, printed in one form."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tunesmith.run.artefacts import Finding, numbered
from tunesmith.show.verdicts import bullets, found, verdicts

FINDINGS = numbered(
    [
        Finding(name="python", status="ok", found="Python 3.11", fix="Never shown: nothing is wrong."),
        Finding(name="memory", status="failed", found="1 GB", fix="Free some.", is_fatal=True),
        Finding(name="rows", status="warns", found="9 rows.", option="data.max_rows: 90", rows=("a.csv:2", "a.csv:3")),
        Finding(name="copying", status="bad", found="It copies.", fix="Train less."),
    ]
)


def printed(*what: object) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=100)
    for part in what:
        console.print(part)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_a_table_numbers_them_and_says_what_to_do_where_one_is_not_good() -> None:
    assert printed(verdicts(FINDINGS)) == [
        " 1  python   ok      Python 3.11",
        " 2  memory   failed  1 GB",
        "                     Free some.",
        " 3  rows     warns   9 rows. First: a.csv:2, a.csv:3. Set data.max_rows: 90.",
        " 4  copying  bad     It copies.",
        "                     Train less.",
    ]


def test_lines_of_a_report() -> None:
    assert printed(*bullets(FINDINGS[3:])) == ["- It copies. Train less."]
    assert printed(*bullets(FINDINGS[2:3], subject="data")) == [
        "- data: rows: 9 rows. First: a.csv:2, a.csv:3. Set data.max_rows: 90."
    ]


def test_a_good_finding_asks_for_nothing() -> None:
    fine = Finding(name="rows", status="fine", found="90 rows.", option="data.max_rows: 90")
    assert found(fine) == "90 rows."


def test_secrets_and_control_characters_are_not_shown() -> None:
    secret = "hf_" + "a1B2" * 8
    line = printed(verdicts([Finding(name="hub", status="warn", found=f"{secret} \x1b[31m", fix=secret)]))
    assert secret not in "".join(line)
    assert "\x1b" not in "".join(line)


@pytest.mark.parametrize(
    ("status", "severity"), [("ok", "good"), ("fine", "good"), ("warn", "note"), ("blocks", "bad")]
)
def test_words_of_each_room_have_one_severity(status: str, severity: str) -> None:
    assert Finding(name="", status=status, found="").severity == severity


def test_json_says_only_what_there_is_to_say() -> None:
    written = Finding(name="rows", status="fine", found="90 rows.").to_json()
    assert sorted(written) == ["found", "limit", "name", "number", "option", "rows", "status", "value"]
    assert Finding.parse(written, "data.json") == Finding(name="rows", status="fine", found="90 rows.")
