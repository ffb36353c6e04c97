"""Freed memory stays with the process, and what the environment says is left alone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

BLOCK = 200 << 20
PROGRAM = f"""
import os, sys
import psutil
from tunesmith.heap import keep_memory
if sys.argv[1] == "kept":
    keep_memory()
block = bytearray(b"x") * {BLOCK}
del block
print(psutil.Process().memory_info().rss, os.environ.get("THP_MEM_ALLOC_ENABLE"))
"""


def run(kind: str, **environment: str) -> tuple[int, str]:
    command = [sys.executable, "-c", PROGRAM, kind]
    inherited = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    output = subprocess.run(command, env=inherited | environment, capture_output=True, text=True, check=True).stdout
    resident, huge = output.split()
    return int(resident), huge


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator of glibc")
def test_freed_memory_stays_with_the_process():
    kept, plain = run("kept"), run("plain")
    assert kept[0] > BLOCK > plain[0]
    assert (kept[1], plain[1]) == ("1", "None")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator of glibc")
def test_the_environment_has_the_last_word():
    resident, huge = run("kept", MALLOC_TRIM_THRESHOLD_="131072", THP_MEM_ALLOC_ENABLE="0")
    assert resident < BLOCK
    assert huge == "0"
