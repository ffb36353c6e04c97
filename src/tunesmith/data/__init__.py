"""Rows of text from what people have, as token arrays that can be trained on.

read/         a path -> tables of rows: files, folders, globs, archives, the hub, standard input, Python
rows/         what a row is, and what of it is learned: text, prompt and completion, chat
split/        train, eval or test, by content; rows that are almost the same
tokens/       rows -> ids and masks -> documents -> optimizer steps

prepare.py    the stage: prepare(recipe.data, tokenizer, max_length) -> Data; again.py: for a run that exists
shares.py     a share of the training rows, nested
account.py    data.json: counts, fingerprints, what became of every row
cache.py      entries by the content of the files; arrays.py: the arrays in them
"""

from __future__ import annotations

from tunesmith.data.prepare import prepare
from tunesmith.data.tokens.documents import Data, TokenizedDocuments

__all__ = ["Data", "TokenizedDocuments", "prepare"]
