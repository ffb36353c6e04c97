"""Data larger than memory: what is held does not grow with the file."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import tunesmith.data.arrays
from tunesmith.data.arrays import ArrayFile, load_array
from tunesmith.data.tokens.documents import TokenizedDocuments

PROGRAM = """
import sys
from tunesmith.data import prepare
from tunesmith.recipe import DataSection
from tunesmith.models.find import find_model
from tunesmith.models.tokenizer import load_tokenizer

peak = 0

def watch(stage, done, total):
    global peak
    with open("/proc/self/status") as status:
        held = next(line for line in status if line.startswith("RssAnon"))
    peak = max(peak, int(held.split()[1]))

tokenizer = load_tokenizer(find_model(sys.argv[1]))
data = prepare(DataSection(path=sys.argv[2], near_duplicates=False), tokenizer, 512, progress=watch)
watch("end", 0, None)
assert data.account.rows_read == int(sys.argv[3])
print(peak)
"""


def write(path: Path, num_rows: int) -> Path:
    letters = random.Random(7)
    words = ["".join(letters.choices("abcdefghijklmnop", k=6)) for _ in range(2000)]
    with path.open("w") as file:
        for row in range(num_rows):
            file.write(json.dumps({"id": row, "text": " ".join(letters.choices(words, k=150))}) + "\n")
    return path


def peak_kibibytes(model: Path, path: Path, num_rows: int) -> int:
    command = [sys.executable, "-c", PROGRAM, str(model), str(path), str(num_rows)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


on_linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads what is held from /proc (Linux)")


@pytest.mark.slow
@on_linux
def test_memory_does_not_grow_with_the_file(tiny_llama: Path, tmp_path: Path) -> None:
    """64 MB against 8 MB: less than a third of the difference may be held (row numbers and hashes are)."""
    few, many = (write(tmp_path / f"{rows}.jsonl", rows) for rows in (7_500, 60_000))
    grown = peak_kibibytes(tiny_llama, many, 60_000) - peak_kibibytes(tiny_llama, few, 7_500)
    assert many.stat().st_size > 60e6
    assert grown < (many.stat().st_size - few.stat().st_size) / 1024 / 3


def test_counting_targets_holds_a_part_of_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts are exact across the borders of parts, and no array of a number per token is made."""
    monkeypatch.setattr(tunesmith.data.arrays, "PASS_ITEMS", 1 << 12)
    choose = np.random.default_rng(7)
    lengths = choose.integers(1, 400, 5000)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    mask = choose.random(offsets[-1]) < 0.5
    tokens, each = np.zeros(len(mask), dtype=np.int32), np.arange(5000)
    documents = TokenizedDocuments(tokens, offsets, mask, rows=each, num_bytes=each)
    tracemalloc.start()
    counted = documents.targets_per_document
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert counted.tolist() == [int(mask[begin:end].sum()) for begin, end in pairwise(offsets.tolist())]
    assert peak < len(mask)


def held_of_files() -> int:
    """Bytes of mapped files that lie in this process's memory."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("RssFile")).split()[1]) * 1024


@on_linux
def test_looking_at_every_end_leaves_no_pages_behind(tmp_path: Path) -> None:
    size, each = 1000, np.arange(16_000)
    file = ArrayFile(tmp_path / "tokens.npy", np.int32)
    for _ in each:
        file.append(np.arange(size))
    file.close()
    tokens, offsets = load_array(tmp_path / "tokens.npy"), np.arange(16_001) * size
    documents = TokenizedDocuments(tokens, offsets, None, rows=each, num_bytes=each)
    before = held_of_files()
    ids, learned = documents.last_tokens
    assert (ids == size - 1).all()
    assert learned.all()
    assert held_of_files() - before < tokens.nbytes / 8
