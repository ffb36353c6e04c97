"""Whole commands, from Enter to the prompt, in interpreters of their own; and a run killed and resumed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kill_resume import hashes

from harness.documents import ROOT, save_gpt2_tokenizer
from harness.processes import Row
from harness.shapes import Shape, build

PROMPTS = ("One fine morning", "A boy and a girl")
KEPT = (
    *("train_seconds", "eval_seconds", "save_seconds", "total_seconds"),
    *("tokens_per_second", "samples_per_second", "peak_bytes", "steps"),
)
"""Of result.json."""
STAGES = 60
"""Lines of a command's output that are kept."""
_LOOK_SECONDS = 0.005


@dataclass(frozen=True)
class Commands:
    """tunesmith commands that work in `folder`, whose caches are their own."""

    folder: Path
    rows: Path
    shape: Shape
    options: tuple[str, ...] = ()
    """Recipe values of every training, as KEY=VALUE."""

    def prepare(self) -> None:
        """A model of the published shape with random weights, GPT-2's tokenizer, and the recipe."""
        build(self.shape).save_pretrained(self.folder / "model")
        save_gpt2_tokenizer(self.folder / "model")
        recipe = {
            "model": {"name": str(self.folder / "model")},
            "data": {"path": str(self.rows), "text": "description"},
            "compare": {"prompts": list(PROMPTS)},
        }
        (self.folder / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")

    def train(self, run: str, *values: str) -> list[str]:
        changes = [word for value in (*self.options, *values) for word in ("--set", value)]
        return ["train", str(self.folder / "recipe.yaml"), "--out", str(self.folder / run), *changes]

    def start(self, arguments: Sequence[str], cache: str) -> Running:
        paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
        own = {"PYTHONPATH": os.pathsep.join(paths), "XDG_CACHE_HOME": str(self.folder / cache), "HF_HUB_OFFLINE": "1"}
        return Running([sys.executable, "-m", "tunesmith", *arguments], {**os.environ, **own})

    def timed(self, arguments: Sequence[str], cache: str) -> Running:
        """A command, from Enter to the prompt. Raises RuntimeError with its last words when it fails."""
        running = self.start(arguments, cache)
        running.process.wait()
        running.ended = running.seconds()
        running.check()
        return running


class Running:
    """A command that goes on, and when it said what."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.begun = time.monotonic()
        pipe: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self.process = subprocess.Popen(command, env=environment, text=True, errors="replace", **pipe)
        self.said: list[tuple[float, str]] = []
        self.ended = 0.0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def seconds(self) -> float:
        """Since Enter."""
        return time.monotonic() - self.begun

    def check(self) -> None:
        """After its end."""
        self._reader.join()
        if self.process.returncode:
            last = " / ".join(line for _, line in self.said[-3:])
            raise RuntimeError(f"exit code {self.process.returncode}: {last}")

    def stages(self) -> list[str]:
        """What it said first, with the seconds since Enter."""
        return [f"{seconds:5.1f}  {line[:100]}" for seconds, line in self.said[:STAGES]]

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.said.append((self.seconds(), line.rstrip()))


def measure_commands(commands: Commands, kinds: Sequence[str], *, compares: bool = True) -> Iterator[Row]:
    """Training with cold and with warm files, two samples, and the comparison. Each prepares its data anew."""
    commands.prepare()
    for kind in kinds:
        if kind == "cold" and not forget_files():
            yield {"variant": "train", "setting": "cold", "failed": "only root may make files cold"}
            continue
        yield {"variant": "train", "setting": kind} | _timed_training(commands, kind)
    run = str(commands.folder / kinds[-1])
    asked = [word for prompt in PROMPTS for word in ("--prompt", prompt)]
    yield _timed(commands, ["generate", run, *asked], "2 samples")
    if compares:
        yield _timed(commands, ["compare", run], "defaults")
        found = json.loads((Path(run) / "compare.json").read_text(encoding="utf-8"))
        yield {"variant": "compare", "setting": "inside", "seconds": found["seconds"]}


def _timed(commands: Commands, arguments: list[str], setting: str) -> Row:
    running = commands.timed(arguments, "cache")
    return {"variant": arguments[0], "setting": setting, "seconds": running.ended, "stages": running.stages()}


def _timed_training(commands: Commands, run: str) -> Row:
    """Enter to the prompt, Enter to the first line of metrics.jsonl, and what result.json says of the rest."""
    shutil.rmtree(commands.folder / run, ignore_errors=True)
    running, first = commands.start(commands.train(run), f"cache-{run}"), None
    while running.process.poll() is None:
        if first is None and _first_step_is_done(commands.folder / run / "metrics.jsonl"):
            first = running.seconds()
        time.sleep(_LOOK_SECONDS)
    seconds = running.seconds()
    running.check()
    result = json.loads((commands.folder / run / "result.json").read_text(encoding="utf-8"))
    predicted = json.loads((commands.folder / run / "plan.json").read_text(encoding="utf-8"))["predicted"]
    row: Row = {key: result[key] for key in KEPT}
    row |= {"seconds": seconds, "first_step_seconds": first, "stages": running.stages()}
    return row | {f"predicted_{key}": predicted[key] for key in ("train_seconds", "peak_bytes", "tokens_per_second")}


def _first_step_is_done(metrics: Path) -> bool:
    with contextlib.suppress(OSError):
        return any(
            json.loads(line).get("loss") for line in metrics.read_text(encoding="utf-8").splitlines()[:3] if line
        )
    return False


def forget_files() -> bool:
    """Let the system forget the files that it keeps in memory; False where this user may not."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n", encoding="ascii")
    except OSError:
        return False
    return True


def measure_resume(commands: Commands, steps: int, save_every: int) -> Iterator[Row]:
    """A run that nothing disturbs, and one that is killed with -9 after its first checkpoint and goes on."""
    commands.prepare()
    values = (f"train.max_steps={steps}", f"save.every={save_every}")
    commands.timed(commands.train("whole", *values), "cache")
    killed = commands.folder / "killed"
    running = commands.start(commands.train("killed", *values), "cache")
    process = running.process
    while process.poll() is None and not list(killed.glob("checkpoints/step-*/MANIFEST.json")):
        time.sleep(_LOOK_SECONDS)
    if process.poll() is not None:
        running.check()
        raise RuntimeError("the run ended before it could be killed")
    process.send_signal(signal.SIGKILL)
    process.wait()
    saved = sorted(path.parent.name for path in killed.glob("checkpoints/step-*/MANIFEST.json"))
    finished = (killed / "result.json").exists()
    commands.timed(commands.train("killed", *values), "cache")
    equal = hashes(commands.folder / "whole" / "model") == hashes(killed / "model")
    row: Row = {"variant": "kill -9 and resume", "setting": f"at {saved[-1]} of {steps}", "equal": equal}
    yield row if not finished and equal else row | {"failed": "finished before the kill" if finished else "differs"}
