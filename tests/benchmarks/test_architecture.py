"""The numbers of docs/architecture.md, on a package small enough to count by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

FILES = {
    "cli/__init__.py": "from tunesmith.cli import train\n",
    "cli/train.py": "def train():\n    from tunesmith import pipeline\n    pipeline.train()\n",
    "pipeline.py": "from tunesmith.loop import Loop\n\n\n"
    "def train():\n    rehearse()\n    loop = Loop()\n    loop.run()\n"
    "\n\ndef rehearse():\n    optimizer.step()\n",
    "loop.py": "import torch\nfrom typing import Any\n\n\nclass Loop:\n    def run(self):\n        self.turn()\n\n"
    "    def turn(self) -> dict[str, Any]:\n        torch._C._inner()\n        self.optimizer.step()\n",
    "left.py": "def lazily():\n    from tunesmith import right\n",
    "right.py": "from tunesmith.left import lazily\nfrom unittest import mock\n",
    "typed.py": "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from tunesmith import untyped\n",
    "untyped.py": "import tunesmith.typed\n",
}


@pytest.fixture
def source(benchmarks: Path, tmp_path: Path) -> Any:
    import architecture  # type: ignore[import-not-found]

    for name, text in {"__init__.py": "", **FILES}.items():
        path = tmp_path / "tunesmith" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return architecture.Source(tmp_path)


def test_hops_leave_out_the_rehearsal(source: Any) -> None:
    import architecture

    rows = dict(architecture.hops(source))
    assert rows["the chain"] == "cli.train.train -> pipeline.train -> loop.Loop.run -> loop.Loop.turn"
    assert rows["hops from the command to optimizer.step()"] == "4, all ours"


def test_a_lazy_import_closes_a_circle_and_one_for_types_does_not(source: Any) -> None:
    import architecture

    assert architecture.circles(architecture.module_graph(source)) == [["tunesmith.left", "tunesmith.right"]]
    assert architecture.circles(architecture.room_graph(source)) == [["left", "right"]]


def test_sizes_and_private_names(source: Any) -> None:
    import architecture

    rows = dict(architecture.sizes(source))
    assert rows["files"] == "9"
    assert rows["functions"] == "6"
    assert rows["largest function"] == "pipeline.train, 4"
    assert rows["lines with `dict[str, Any]`"] == "1"
    assert rows["uses of unittest.mock"] == "1"
    assert architecture.private_names(source) == {"tunesmith.loop: torch._C._inner", "tunesmith.loop: torch._C"}


def test_relative_imports_and_a_start_that_hands_its_loop_on(benchmarks: Path, tmp_path: Path) -> None:
    import architecture

    for name, text in {
        "__init__.py": "",
        "tune.py": "from . import run\nfrom .run import launch\n\n\ndef setup():\n    launch(main)\n\n\ndef main():\n"
        "    optimizer.step()\n",
        "run.py": "from . import tune\n\n\ndef launch(what, a, b, c, d, e, f):\n    what()\n",
    }.items():
        path = tmp_path / "other" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    source = architecture.Source(tmp_path, "other")
    assert architecture.circles(architecture.module_graph(source)) == [["other.run", "other.tune"]]
    assert architecture.Calls(source).shortest(("other.tune", "setup")) == [
        ("other.tune", "setup"),
        ("other.tune", "main"),
    ]

    import codebases  # type: ignore[import-not-found]

    rows = dict(codebases.rows(source))
    assert rows["files, lines"] == "3, 15"
    assert rows["more than six parameters"] == "1 (33%)"
    assert rows["public names that say what they are"] == "0 (0%)"
    assert rows["loops"] == "1"
    assert rows["circles between modules, rooms"] == "1 (2 the largest), 1 (2 the largest)"
