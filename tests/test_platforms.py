"""What other systems lack is not needed: the commands run in a process from which it was taken away.

A simulation: Windows' own ways (no open file is renamed or removed, other paths) are not in it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TAKE_AWAY = """
import mmap, os, pathlib, signal, sys, types
import accelerate, aiohttp, datasets, fsspec, peft, psutil, py3langid.langid, sklearn.pipeline, torch, transformers
import filelock, torch.distributed, torch.utils.flop_counter

def without(module, *names):
    # Libraries have their own ways on other systems; they keep the module that they have imported.
    poorer = types.ModuleType(module.__name__)
    poorer.__dict__.update({name: value for name, value in vars(module).items() if name not in names})
    sys.modules[module.__name__] = poorer
    return poorer

for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
without(signal, "SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGKILL", "pause")
without(mmap, *(name for name in dir(mmap) if name.startswith("MADV_")))
poorer_os = without(
    os, "O_NOFOLLOW", "O_DIRECTORY", "fchmod", "getloadavg", "sched_getaffinity", "getuid", "geteuid", "killpg", "fork",
    "setsid", "statvfs",
)

def open_files_only(path, *args, **kwargs):
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", str(path))
    return os.open(path, *args, **kwargs)

def rename_to_nothing(path, target):
    if os.path.exists(target):
        raise FileExistsError(17, "File exists", str(target))
    os.rename(path, target)
    return pathlib.Path(target)

def no_proc(function):
    def call(path, *args, **kwargs):
        if str(path).startswith("/proc"):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return function(path, *args, **kwargs)
    return call

poorer_os.open = open_files_only
pathlib.Path.rename = rename_to_nothing
for name in ("open", "read_text", "read_bytes", "readlink", "stat"):
    setattr(pathlib.Path, name, no_proc(getattr(pathlib.Path, name)))
"""

RUN = """
import importlib, pkgutil
import tunesmith

for module in pkgutil.walk_packages(tunesmith.__path__, "tunesmith."):
    if module.name != "tunesmith.__main__" and not module.name.startswith("tunesmith.fast.kernels."):
        importlib.import_module(module.name)

from tunesmith.cli import main

for words in sys.argv[1].split(";"):
    sys.argv = ["tunesmith", *words.split()]
    try:
        code = main()
    except SystemExit as end:
        code = end.code
    if code:
        sys.exit(f"{words}: exit code {code}")
    print("ended:", words)
"""


def run_without(commands: list[str], cache: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", TAKE_AWAY + RUN, ";".join(commands)],
        env={**os.environ, "XDG_CACHE_HOME": str(cache), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def recipe(tiny_llama: Path, shows_csv: Path, tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"model: {{name: {tiny_llama}}}\n"
        f"data: {{path: {shows_csv}, text: description}}\n"
        "train: {max_steps: 2, tokens_per_step: 512, max_length: 128, method: lora}\n"
        "compare: {num_samples: 1, max_new_tokens: 4}\n"
    )
    return path


def test_commands_work_without_what_other_systems_lack(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "one"
    commands = [
        f"doctor --out {tmp_path}",
        f"data {recipe}",
        f"plan {recipe}",
        f"train {recipe} --out {run}",
        f"report {run}",
        f"runs {run.parent}",
    ]
    done = run_without(commands, tmp_path / "cache")
    assert done.returncode == 0, done.stderr[-3000:]
    assert [line for line in done.stdout.splitlines() if line.startswith("ended:")] == [f"ended: {c}" for c in commands]
    assert not (run / "lock").exists()
