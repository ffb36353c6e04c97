"""Rows of text from what people have, as token arrays that can be trained on.

read.py         a path -> tables: files, folders, globs, hub, standard input; table.py: what a table is
read_bytes.py   compression, encodings, lines; read_csv.py, read_json.py, read_text.py, ...: one module a format
rows.py         what a row is: text, template.py, prompt and completion, or chat.py: turns by the model's template
reading.py      one pass over all tables: rows rendered into spool.py, counted by ledger.py
split.py        train, eval or test, by content; near_duplicates.py, beginnings.py: rows almost the same
encode.py       rows -> ids and masks; words.py and encode_workers.py: fast, on every core
tokenize.py     a split -> token arrays, resumable; long.py: documents that are longer than max_length
documents.py    TokenizedDocuments and Data, the values that later stages read
prepare.py      the stage: prepare(recipe.data, tokenizer, max_length) -> Data; cache.py, account.py: data.json
progress.py     what a person sees meanwhile
steps.py        documents -> optimizer steps and micro-batches
"""

from __future__ import annotations

from tunesmith.data.prepare import prepare
from tunesmith.data.tokens.documents import Data, TokenizedDocuments

__all__ = ["Data", "TokenizedDocuments", "prepare"]
