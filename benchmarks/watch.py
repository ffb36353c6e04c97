"""What watching a run costs: python benchmarks/watch.py [SECONDS]

A run that logs a step a second is watched in a terminal of its own and by a page that asks once a second; printed is
the processor time of each, and what it takes to open a run of a million logged steps and lines of log.
"""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import psutil

from tunesmith.recipe import Recipe
from tunesmith.run.artefacts import MetricsLine
from tunesmith.run.directory import LOG, METRICS, RunDir
from tunesmith.run.lock import RunLock
from tunesmith.run.observer import Silent
from tunesmith.run.recorder import Recorder
from tunesmith.watch.view import View

MANY = 1_000_000


def line(step: int) -> MetricsLine:
    return MetricsLine(
        step=step,
        epoch=0.1,
        time=float(step),
        loss=3.0 + 1 / (step + 1),
        learning_rate=1e-4,
        grad_norm=1.5,
        tokens_per_second=250.0,
        fed_tokens_per_second=250.0,
        peak_bytes=10**9,
    )


def new_run(folder: Path, name: str) -> RunDir:
    run_dir = RunDir.create(folder / name)
    run_dir.write_recipe(Recipe(model="smollm2-135m", data="rows.csv"))
    return run_dir


def spent(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def in_a_terminal(command: list[str]) -> int:
    """Its process; what it draws is read and forgotten."""
    pid, descriptor = pty.fork()
    if pid == 0:
        os.environ.update(COLUMNS="100", LINES="30", TERM="xterm-256color")
        os.execvp(command[0], command)

    def read() -> None:
        try:
            while os.read(descriptor, 65_536):
                pass
        except OSError:
            return

    threading.Thread(target=read, daemon=True).start()
    return pid


def ask(address: str, known: set[str]) -> None:
    """As the page's script asks."""
    with urllib.request.urlopen(f"{address}/live/?known={','.join(known)}") as answer:
        for digest, _ in json.load(answer)["parts"].values():
            known.add(digest)


def watch_for(seconds: float, folder: Path) -> None:
    run_dir = new_run(folder, "live")
    watch = [sys.executable, "-m", "tunesmith", "watch", str(run_dir.path)]
    with RunLock(run_dir):
        recorder = Recorder(run_dir, 10_000, Silent())
        recorder.doing("training")
        terminal = psutil.Process(in_a_terminal(watch))
        with subprocess.Popen([*watch, "--web", "--port", "0"], stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            address, known, page = server.stdout.readline().strip(), set[str](), psutil.Process(server.pid)
            begun, before = 0.0, (0.0, 0.0)
            for step in range(int(seconds) + 5):
                recorder.stepped(line(step), 60.0)
                ask(address, known)
                if step == 5:
                    begun, before = time.monotonic(), (spent(terminal), spent(page))
                time.sleep(1)
            took, after = time.monotonic() - begun, (spent(terminal), spent(page))
            server.send_signal(signal.SIGINT)
        terminal.send_signal(signal.SIGINT)
    for name, first, last in zip(("terminal", "server of the page"), before, after, strict=True):
        cores = os.cpu_count() or 1
        share = (last - first) / took / cores
        print(f"{name}: {last - first:.2f} s of processor time in {took:.0f} s, {share:.2%} of {cores} cores")


def open_a_long_run(folder: Path) -> None:
    run_dir = new_run(folder, "long")
    with run_dir.file(METRICS).open("w") as file:
        for step in range(MANY):
            file.write(json.dumps(line(step).to_json()) + "\n")
            if step % 20_000 == 0:
                file.write(json.dumps({"step": step, "epoch": 0.1, "time": 1.0, "eval_loss": 2.0}) + "\n")
    run_dir.file(LOG).write_text("a line of the log\n" * MANY)
    size = run_dir.file(METRICS).stat().st_size
    begun = time.perf_counter(), time.process_time()
    view = View.of(run_dir)
    took, worked = time.perf_counter() - begun[0], time.process_time() - begun[1]
    print(
        f"{MANY:,} logged steps ({size / 1e6:.0f} MB) and lines of log: {took:.2f} s, {worked:.2f} s of processor time"
    )
    assert len(view.held_out.lines) == MANY // 20_000


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="tunesmith-watch-") as name:
        open_a_long_run(Path(name))
        watch_for(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0, Path(name))
