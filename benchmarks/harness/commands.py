"""Whole commands, from Enter to the prompt, in interpreters of their own; and a run killed and resumed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kill_resume import hashes

from harness.documents import ROOT, save_gpt2_tokenizer
from harness.processes import Row
from harness.shapes import Shape, build

PROMPTS = ("One fine morning", "A boy and a girl")
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

    def start(self, arguments: Sequence[str], cache: str) -> subprocess.Popen[bytes]:
        paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
        own = {"PYTHONPATH": os.pathsep.join(paths), "XDG_CACHE_HOME": str(self.folder / cache), "HF_HUB_OFFLINE": "1"}
        with (self.folder / "commands.log").open("ab") as log:
            command = [sys.executable, "-m", "tunesmith", *arguments]
            return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **own})

    def timed(self, arguments: Sequence[str], cache: str) -> float:
        """Seconds from Enter to the prompt. Raises RuntimeError with the last words of a command that failed."""
        begun = time.monotonic()
        self.check(self.start(arguments, cache).wait())
        return time.monotonic() - begun

    def check(self, code: int) -> None:
        if code:
            said = (self.folder / "commands.log").read_text(encoding="utf-8", errors="replace")
            raise RuntimeError(f"exit code {code}: {' / '.join(said.strip().splitlines()[-3:])}")


def measure_commands(commands: Commands, kinds: Sequence[str]) -> Iterator[Row]:
    """Training with cold and with warm files, two samples, and the comparison. Each prepares its data anew."""
    commands.prepare()
    for kind in kinds:
        if kind == "cold" and not forget_files():
            yield {"variant": "train", "setting": "cold", "failed": "only root may make files cold"}
            continue
        yield {"variant": "train", "setting": kind} | _timed_training(commands, kind)
    run = str(commands.folder / kinds[-1])
    asked = [word for prompt in PROMPTS for word in ("--prompt", prompt)]
    yield {"variant": "generate", "setting": "2 samples", "seconds": commands.timed(["generate", run, *asked], "cache")}
    yield {"variant": "compare", "setting": "defaults", "seconds": commands.timed(["compare", run], "cache")}
    found = json.loads((Path(run) / "compare.json").read_text(encoding="utf-8"))
    yield {"variant": "compare", "setting": "inside", "seconds": found["seconds"]}


def _timed_training(commands: Commands, run: str) -> Row:
    """Enter to the prompt, Enter to the first line of metrics.jsonl, and what result.json says of the rest."""
    shutil.rmtree(commands.folder / run, ignore_errors=True)
    begun = time.monotonic()
    process, first = commands.start(commands.train(run), f"cache-{run}"), None
    while process.poll() is None:
        if first is None and _first_step_is_done(commands.folder / run / "metrics.jsonl"):
            first = time.monotonic() - begun
        time.sleep(_LOOK_SECONDS)
    seconds = time.monotonic() - begun
    commands.check(process.returncode)
    result = json.loads((commands.folder / run / "result.json").read_text(encoding="utf-8"))
    plan = json.loads((commands.folder / run / "plan.json").read_text(encoding="utf-8"))
    kept = (
        "train_seconds",
        "eval_seconds",
        "save_seconds",
        "total_seconds",
        "tokens_per_second",
        "peak_bytes",
        "steps",
    )
    row: Row = {key: result[key] for key in kept}
    row |= {"seconds": seconds, "first_step_seconds": first, "predicted_seconds": plan["predicted"]["train_seconds"]}
    return row | {
        "predicted_peak_bytes": plan["predicted"]["peak_bytes"],
        "samples_per_second": result["samples_per_second"],
    }


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
    process = commands.start(commands.train("killed", *values), "cache")
    while process.poll() is None and not list(killed.glob("checkpoints/step-*/MANIFEST.json")):
        time.sleep(_LOOK_SECONDS)
    if process.poll() is not None:
        commands.check(process.returncode)
        raise RuntimeError("the run ended before it could be killed")
    process.send_signal(signal.SIGKILL)
    process.wait()
    saved = sorted(path.parent.name for path in killed.glob("checkpoints/step-*/MANIFEST.json"))
    finished = (killed / "result.json").exists()
    commands.timed(commands.train("killed", *values), "cache")
    equal = hashes(commands.folder / "whole" / "model") == hashes(killed / "model")
    row: Row = {"variant": "kill -9 and resume", "setting": f"at {saved[-1]} of {steps}", "equal": equal}
    yield row if not finished and equal else row | {"failed": "finished before the kill" if finished else "differs"}
