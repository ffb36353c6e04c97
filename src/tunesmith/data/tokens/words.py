"""Encoding text a word at a time, each different word once.

A byte-level BPE never merges across a single space between two characters, so the text up to such a space and the text
from it on can be encoded apart. Words repeat, so nearly all of them are found in a dictionary: about five times as fast
as encoding whole texts (GPT-2's vocabulary, one core). Whether a tokenizer allows it is tried on hard texts before, and
on a text of every batch; where it does not, whole texts are encoded.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from itertools import chain

import numpy as np
from numpy.typing import NDArray

MAX_WORDS = 400_000  # about 60 MB
MAX_WORD_CHARACTERS = 64
EncodeBatch = Callable[[Sequence[str]], list[list[int]]]
Flat = tuple[NDArray[np.int32], NDArray[np.int64]]

_split = re.compile(r" (?<=\S )(?=\S)").split  # one literal in front, which the search skips to
_HARD = (
    " a  b   c    d\n\ne \n f\n g\t h \t i",
    "It's, we'll; I'd 'quoted' and \"said\" (so) [yes] {no}... what?! -- end.",
    "1 12 123 1234 12,345.67 3.14 1e10 0x1F 2024-01-31 a1b2 c3 4d",
    "ÄÖÜ éclair naïve Ωmega Привет мир 你好 世界 こんにちは 世界 안녕 세상 שלום עולם مرحبا بالعالم",
    "👩‍👩‍👧‍👦 family 🇺🇦 flag e\u0301 a \u0301b \u00a0nbsp\u00a0 x\u200by \u2003em z",
    "def f(x):\n    return x ** 2  # square\n\n\tif not x: pass\r\nend\r\n \r\n x",
    "https://example.com/a?b=c&d=e #tag @name $5.00 100% a/b c\\d <b>bold</b> `code`",
    "don't stop. Don't  stop .Don't . stop ! \n. . .",
)


class WordEncoder:
    """Encodes batches of texts with `encode_batch`, through a dictionary of words where that gives the same ids."""

    def __init__(self, encode_batch: EncodeBatch, control_tokens: Sequence[str] = ()) -> None:
        """control_tokens: added tokens of the tokenizer, around which splitting is tried too."""
        self.encode_batch = encode_batch
        self.control_tokens = control_tokens
        self.words: dict[str, bytes] = {}
        self.failed = False

    def encode(self, texts: Sequence[str]) -> Flat:
        """int32 ids of all texts behind one another, and int64 number of ids of each."""
        if self.failed or not self._is_splittable:
            return self._encode_whole(texts)
        ids, lengths = self._encode_words(texts)
        if texts and ids[: lengths[0]].tolist() != self.encode_batch(texts[:1])[0]:
            self.failed = True
            return self._encode_whole(texts)
        return ids, lengths

    @cached_property
    def _is_splittable(self) -> bool:
        around = [f"a {token} b{token}c {token} {token}\n d" for token in self.control_tokens]
        hard = [*_HARD, *(text.swapcase() for text in _HARD), " ".join(_HARD), *around]
        ids, lengths = self._encode_words(hard)
        whole, whole_lengths = self._encode_whole(hard)
        return np.array_equal(ids, whole) and np.array_equal(lengths, whole_lengths)

    def _encode_whole(self, texts: Sequence[str]) -> Flat:
        encoded = self.encode_batch(texts)
        lengths = np.array([len(ids) for ids in encoded], dtype=np.int64)
        return np.fromiter(chain.from_iterable(encoded), dtype=np.int32, count=int(lengths.sum())), lengths

    def _encode_words(self, texts: Sequence[str]) -> Flat:
        split = [_split(text) for text in texts]
        for words in split:
            words[0] = f" {words[0]}"  # no other begins with a space
        new = self._encode_new(set(chain.from_iterable(split)).difference(self.words))
        is_room = len(self.words) < MAX_WORDS
        self.words.update(new)
        find = self.words.__getitem__
        parts = [b"".join(map(find, words)) for words in split]
        for word in new:
            if not is_room or len(word) > MAX_WORD_CHARACTERS:
                del self.words[word]
        lengths = np.array([len(part) for part in parts], dtype=np.int64) // 4
        return np.frombuffer(b"".join(parts), dtype=np.int32), lengths

    def _encode_new(self, words: Collection[str]) -> dict[str, bytes]:
        """Ids of words as the dictionary has them: the first of a text after a space, others without theirs."""
        written = [word[1:] if word[0] == " " else f" {word}" for word in words]
        return {word: array("i", ids).tobytes() for word, ids in zip(words, self.encode_batch(written), strict=True)}
