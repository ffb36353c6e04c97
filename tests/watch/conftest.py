"""A run that grows while it is watched, a server of its page, and a browser."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tunesmith.run.artefacts import EvalScores, MetricsLine, SamplesLine, WrittenText
from tunesmith.run.directory import RunDir
from tunesmith.run.lock import RunLock
from tunesmith.run.observer import Silent
from tunesmith.run.recorder import Recorder

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Growing:
    """A run that this process writes, step by step, as training does."""

    def __init__(self, run_dir: RunDir) -> None:
        self.run_dir, self.step = run_dir, 0
        self.recorder = Recorder(run_dir, 100, Silent())

    def steps(self, number: int) -> None:
        for _ in range(number):
            self.step += 1
            self.recorder.stepped(
                MetricsLine(
                    step=self.step,
                    epoch=self.step / 100,
                    time=float(self.step),
                    loss=5.0 - self.step / 50,
                    learning_rate=2e-4,
                    grad_norm=1.5,
                    tokens_per_second=250.0,
                    peak_bytes=10**9,
                ),
                100.0 - self.step,
            )
        self.recorder.doing("training")  # status.json is written at once

    def evaluate(self, loss: float, text: str = "") -> None:
        scores = EvalScores(eval_loss=loss, eval_perplexity=1.0, eval_bits_per_byte=1.0, eval_token_accuracy=0.1)
        line = MetricsLine(step=self.step, epoch=self.step / 100, time=float(self.step), **scores.model_dump())
        self.recorder.evaluated(line, scores)
        wrote = WrittenText(prompt="One fine morning", text=text, ended=False, is_answer=False)
        self.recorder.wrote(SamplesLine(step=self.step, texts=(wrote,)))

    def finish(self) -> None:
        self.recorder.__exit__(None, None, None)


@pytest.fixture
def growing(tiny_run: RunDir, tmp_path: Path) -> Iterator[Growing]:
    """Alive: this process holds its lock."""
    run_dir = RunDir.create(tmp_path / "runs" / "growing")
    run_dir.write_recipe(tiny_run.recipe())
    with RunLock(run_dir, lambda line: None):
        run = Growing(run_dir)
        run.recorder.doing("loading the model")
        yield run


@pytest.fixture
def serve_page() -> Iterator[Callable[..., str]]:
    """serve_page(path, *options): the address that `watch PATH --web --port 0` prints."""
    pytest.importorskip("uvicorn", reason="uvicorn is not installed")
    started: list[subprocess.Popen[str]] = []

    def call(path: Path, *options: str) -> str:
        command = [sys.executable, "-m", "tunesmith", "watch", str(path), "--web", "--port", "0", *options]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout is not None
        return started[-1].stdout.readline().strip()

    yield call
    for process in started:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def browser() -> Iterator[Any]:
    """A browser of playwright; its pages collect what their console says in `page.said`."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()
