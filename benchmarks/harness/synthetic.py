"""Text of any amount that behaves like prose under a tokenizer: words by Zipf's law, sentences, numbers, rare names.

The frequent words are those of the packaged shows and passages; the rest of a 200,000-word vocabulary is made of
syllables, so that a dictionary of words meets new ones for as long as the text goes on, as it does in real text.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ASSETS = Path(__file__).parents[2] / "src" / "tunesmith" / "assets"
NUM_WORDS = 200_000
EXPONENT = 1.15
MEAN_ROW_WORDS = 300
SENTENCE_WORDS = 14
_BATCH_WORDS = 1 << 18
_SYLLABLES = np.array(  # a list would be made an array again for every word
    [a + b + c for a in "bdfgklmnprstv" for b in ("a", "e", "i", "o", "u", "ai", "ou") for c in ("", "n", "r")]
)


def write_rows(path: Path, num_bytes: int, seed: int = 7) -> int:
    """Write JSON lines {"id", "text"} until the file has about `num_bytes`; returns the number of rows."""
    row, written = 0, 0
    with path.open("w", encoding="utf-8") as file:
        for text in texts(seed):
            written += file.write(json.dumps({"id": row, "text": text}) + "\n")
            row += 1
            if written >= num_bytes:
                break
    return row


def texts(seed: int = 7) -> Iterator[str]:
    """Texts without end, on average 300 words long, most of them shorter."""
    random = np.random.default_rng(seed)
    forms, cumulative = _forms(random), _zipf()
    while True:
        lengths = np.clip(random.lognormal(np.log(MEAN_ROW_WORDS) - 0.5, 1.0, size=1 << 10), 5, 20_000).astype(int)
        lengths = lengths[np.cumsum(lengths) <= _BATCH_WORDS]
        words = _words(random, int(lengths.sum()), forms, cumulative)
        for begin, end in zip(np.cumsum(lengths) - lengths, np.cumsum(lengths), strict=True):
            yield _sentence(words[begin:end])


def _words(random: np.random.Generator, num_words: int, forms: Any, cumulative: NDArray[np.float64]) -> list[str]:
    """Words with their punctuation: the one after a full stop begins with a capital."""
    ranks = np.searchsorted(cumulative, random.random(num_words))
    stops = random.random(num_words) < 1 / SENTENCE_WORDS
    commas = ~stops & (random.random(num_words) < 1 / 18)
    capitals = np.roll(stops, 1)
    chosen: list[str] = forms[ranks, capitals * 3 + stops * 1 + commas * 2].tolist()
    return chosen


def _sentence(words: list[str]) -> str:
    text = " ".join(words).rstrip(",.")
    return f"{text[:1].upper()}{text[1:]}."


def _zipf() -> NDArray[np.float64]:
    shares = np.cumsum((np.arange(NUM_WORDS) + 2.7) ** -EXPONENT)
    cumulative: NDArray[np.float64] = shares / shares[-1]
    return cumulative


def _forms(random: np.random.Generator) -> Any:
    """[NUM_WORDS, 6] each word plain, with a full stop and with a comma; the same with a capital."""
    names = _frequent_words()
    known = set(names)
    while len(names) < NUM_WORDS:
        name = "".join(random.choice(_SYLLABLES, size=int(random.integers(2, 5))))
        name = str(random.integers(1, 10_000)) if random.random() < 0.02 else name
        if name not in known:
            known.add(name)
            names.append(name)
    plain = [[name, f"{name}.", f"{name},"] for name in names[:NUM_WORDS]]
    return np.array([[*row, *(word[:1].upper() + word[1:] for word in row)] for row in plain], dtype=object)


def _frequent_words() -> list[str]:
    source = (ASSETS / "shows.csv").read_text(encoding="utf-8")
    source += (ASSETS / "general" / "passages.jsonl").read_text(encoding="utf-8")
    return [word for word, _ in Counter(re.findall(r"\w+(?:'\w+)?", source.lower())).most_common()]
