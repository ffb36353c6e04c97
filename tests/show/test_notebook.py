"""What a notebook is sent while a run goes on: one line with a bar, drawn again in its place."""

from __future__ import annotations

import builtins
import io
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tunesmith.run.artefacts import MetricsLine
from tunesmith.show import notebook as module
from tunesmith.show.doing import Doing
from tunesmith.show.notebook import NotebookLine, publisher
from tunesmith.show.progress import Progress


class ZMQInteractiveShell:
    """As far as rich and this package ask a notebook's shell."""

    def __init__(self) -> None:
        self.display_pub = self
        self.sent: list[dict[str, Any]] = []

    def publish(self, **message: Any) -> None:
        self.sent.append(message)

    @property
    def drawn(self) -> list[str]:
        return [message["data"]["text/html"] for message in self.sent]


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> ZMQInteractiveShell:
    shell = ZMQInteractiveShell()
    monkeypatch.setattr(builtins, "get_ipython", lambda: shell, raising=False)
    return shell


def line(step: int) -> MetricsLine:
    return MetricsLine(step=step, epoch=0.5, time=1.0, loss=2.5, tokens_per_second=300.0, peak_bytes=2_000_000_000)


def test_the_bar_is_drawn_in_its_place(shell: ZMQInteractiveShell, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    with Progress(Console(file=io.StringIO())) as progress:  # rich finds out where it is
        progress.started(0, 4)
        for step in (1, 2, 3):
            clock.now += 1.0
            progress.stepped(line(step), 6.0)
        progress.stepped(line(4), None)
    assert len({message["transient"]["display_id"] for message in shell.sent}) == 1
    assert [message["update"] for message in shell.sent] == [False, True, True, True, True]
    assert '<progress value="2" max="4"></progress> 2/4 loss 2.500  300 tokens/s  2.0 GB  6 s left' in shell.drawn[2]
    assert '<progress value="4" max="4">' in shell.drawn[-1]
    assert shell.sent[-1]["data"]["text/plain"] == "4/4 loss 2.500  300 tokens/s  2.0 GB"


def test_quick_steps_are_drawn_a_few_times_a_second(
    shell: ZMQInteractiveShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    with Progress(Console(file=io.StringIO())) as progress:
        progress.started(0, 1000)
        for step in range(1, 1001):
            clock.now += 0.001
            progress.stepped(line(step), 1.0)
    assert 4 <= len(shell.sent) <= 8
    assert "1000/1000" in shell.drawn[-1]


def test_what_is_done_is_one_line_and_no_markup(shell: ZMQInteractiveShell) -> None:
    with Doing(Console(file=io.StringIO())) as doing:
        doing("reading <b>rows</b>", 5, 10)
        doing("planning")
    assert shell.drawn[0] == "<div>reading &lt;b&gt;rows&lt;/b&gt; 5 of 10</div>"
    assert shell.drawn[-1].startswith("<div>planning")
    assert len({message["transient"]["display_id"] for message in shell.sent}) == 1


def test_elsewhere_nothing_is_sent(shell: ZMQInteractiveShell, monkeypatch: pytest.MonkeyPatch) -> None:
    assert publisher(Console(file=io.StringIO(), quiet=True)) is None
    assert publisher(Console(file=io.StringIO(), force_jupyter=False)) is None
    monkeypatch.delattr(builtins, "get_ipython")
    assert publisher(Console(file=io.StringIO())) is None
    assert publisher(Console(file=io.StringIO(), force_jupyter=True)) is None
    assert not shell.sent


def test_a_line_begins_at_once(shell: ZMQInteractiveShell) -> None:
    NotebookLine(shell).draw("begun")
    assert shell.drawn == ["<div>begun</div>"]


CELLS = """
    import tunesmith
    run = tunesmith.train({recipe!r}, out={out!r})
    run
    -----
    run.report()
"""


@pytest.mark.slow
def test_a_kernel_shows_bar_run_and_report(tiny_llama: Path, shows_csv: Path, tmp_path: Path) -> None:
    """A notebook as nbconvert runs it: what ends up in the outputs of its cells."""
    pytest.importorskip("ipykernel", reason="needs ipykernel, of the extra dev-all")
    client = pytest.importorskip("nbclient", reason="needs nbclient, of the extra dev-all")
    import nbformat

    recipe = {
        "model": str(tiny_llama),
        "data": {"path": str(shows_csv), "text": "description", "max_rows": 60, "eval_fraction": 0.2},
        "train": {"max_steps": 3, "tokens_per_step": 512, "max_length": 128},
    }
    source = textwrap.dedent(CELLS).format(recipe=recipe, out=str(tmp_path / "run"))
    made = nbformat.v4.new_notebook()
    made.cells = [nbformat.v4.new_code_cell(cell.strip()) for cell in source.split("-----")]
    client.NotebookClient(made, timeout=300, kernel_name="python3").execute()
    first, second = (
        [str(output["data"].get("text/html")) for output in cell.outputs if "data" in output] for cell in made.cells
    )
    bars = [page for page in first if "<progress" in page]
    assert len(bars) == 1, "drawn again in its place"
    assert re.search(r'<progress value="3" max="3"></progress> 3/3 loss \d', bars[0])
    assert "held-out loss" in first[-1]
    assert second[-1].startswith("<iframe srcdoc=")
