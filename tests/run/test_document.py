"""docs/run-directory.md is what the classes say."""

from __future__ import annotations

import re
from pathlib import Path

from tunesmith.run.artefacts import ARTEFACTS, DataAccount
from tunesmith.run.document import SECTIONS, document

PAGE = Path(__file__).parents[2] / "docs" / "run-directory.md"


def test_the_page_is_up_to_date() -> None:
    again = "python -m tunesmith.run.document > docs/run-directory.md"
    assert PAGE.read_text(encoding="utf-8") == document(), f"write it again: {again}"


def test_every_artefact_and_field_is_on_it() -> None:
    page = document()
    assert set(ARTEFACTS) <= {record for _, record in SECTIONS}
    for name in DataAccount.model_fields:
        assert f"\n| {name} | " in page
    assert "| splits | object of [SplitAccount](#splitaccount) | By name: train, eval, test. |" in page
    assert "| encoding | string or null |" in page  # of the class that it is made from


def test_every_link_leads_somewhere() -> None:
    page = document()
    anchors = {heading.lower().replace(".", "") for heading in re.findall(r"(?m)^#+ (.*)$", page)}
    assert set(re.findall(r"\]\(#([^)]*)\)", page)) <= anchors
