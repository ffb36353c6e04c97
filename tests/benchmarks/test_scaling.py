"""The table of docs/scaling.md is what the plan says today."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

DOC = Path(__file__).parents[2] / "docs" / "scaling.md"


def test_the_largest_row_of_the_documented_table_is_todays(benchmarks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scaling = importlib.import_module("scaling")
    assert scaling.__file__ == str(benchmarks / "scaling.py")
    monkeypatch.setattr(scaling, "COUNTS", (1024,))
    (quote,) = scaling.ladder("infiniband-ndr")
    row, documented = scaling.row(quote), DOC.read_text(encoding="utf-8")
    efficiency = scaling.HEAD.index("efficiency")
    cells = next(line for line in documented.splitlines() if line.startswith("| 1,024 |")).strip("| ").split(" | ")
    assert cells[:efficiency] + cells[efficiency + 1 :] == row[:efficiency] + row[efficiency + 1 :]


@pytest.mark.slow
@pytest.mark.parametrize("network", ["infiniband-ndr", "ethernet-100"])
def test_the_documented_table_is_todays(benchmarks: Path, network: str) -> None:
    scaling = importlib.import_module("scaling")
    assert scaling.__file__ == str(benchmarks / "scaling.py")
    assert scaling.table(network) in DOC.read_text(encoding="utf-8")
