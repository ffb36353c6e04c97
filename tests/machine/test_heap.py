"""Huge pages are asked for unless the environment says otherwise; memory is given back."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

BLOCK = 200 << 20
PROGRAM = f"""
import os
import psutil
from tunesmith.machine.heap import give_back, use_huge_pages
use_huge_pages()
pieces = [bytearray(b"x") * 100_000 for _ in range({BLOCK} // 100_000)]
last = bytearray(b"x") * 100_000
del pieces
held = psutil.Process().memory_info().rss
give_back()
print(held, psutil.Process().memory_info().rss, os.environ["THP_MEM_ALLOC_ENABLE"])
"""


def run(**environment: str) -> tuple[int, int, str]:
    inherited = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=inherited | environment, capture_output=True, text=True, check=True
    )
    held, left, huge = done.stdout.split()
    return int(held), int(left), huge


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator of glibc")
def test_free_memory_under_a_block_in_use_is_given_back():
    held, left, huge = run()
    assert held > BLOCK > left
    assert huge == "1"


def test_the_environment_has_the_last_word():
    assert run(THP_MEM_ALLOC_ENABLE="0")[2] == "0"
