"""The synthetic text is the same for a seed, looks like prose to a tokenizer, and goes from file to training steps."""

import json
import subprocess
import sys
from itertools import islice

import pytest


def test_text_is_the_same_for_a_seed(benchmarks):
    from harness.synthetic import texts

    first = list(islice(texts(3), 5))
    assert first == list(islice(texts(3), 5))
    assert first != list(islice(texts(4), 5))


def test_rows_are_json_lines_of_about_the_size_that_was_asked_for(benchmarks, tmp_path):
    from harness.synthetic import write_rows

    path = tmp_path / "a.jsonl"
    num_rows = write_rows(path, 300_000)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert 300_000 <= path.stat().st_size < 500_000
    assert [row["id"] for row in rows] == list(range(num_rows))
    assert all(row["text"][0].upper() == row["text"][0] and row["text"].endswith(".") for row in rows)
    words = " ".join(row["text"] for row in rows).split()
    assert 0.05 < len(set(words)) / len(words) < 0.5


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads memory from /proc")
def test_a_toy_file_goes_from_data_to_training_steps(benchmarks, tmp_path):
    out = tmp_path / "large.json"
    command = [benchmarks / "large_jsonl.py", "--gigabytes", 0.001, "--folder", tmp_path / "run", "--out", out]
    finished = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-3000:]
    results = json.loads(out.read_text())
    assert results["data"]["tokens"] > 200_000
    assert results["data"]["stages"].keys() == {"reading rows", "comparing rows", "tokenising rows"}
    assert 0 < results["data"]["peak_anonymous_bytes"] < results["data"]["peak_bytes"]
    assert results["train"]["steps"] == 3
    assert "tunesmith" in finished.stdout
    assert not (tmp_path / "run").exists()
