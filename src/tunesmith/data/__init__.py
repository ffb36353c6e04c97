"""Rows of text from what people have, as token arrays that can be trained on.

read.py         a path -> tables: files, folders, globs, hub, standard input
read_bytes.py   compression, encodings, lines; read_csv.py, read_json.py, read_text.py, ...: one module a format
rows.py         what a row is: text, template, prompt/completion, chat
chat.py         turns -> text and the parts that are learned, by the model's own template
split.py        train, eval or test, by content
near_duplicates.py   which rows are almost the same
long.py         documents that are longer than max_length
tokenize.py     text -> token arrays, in parallel, resumable
documents.py    TokenizedDocuments and Data, the values that later stages read
prepare.py      the stage: prepare(recipe.data, tokenizer, max_length) -> Data
steps.py        documents -> optimizer steps and micro-batches
"""

from __future__ import annotations

from tunesmith.data.documents import Data, TokenizedDocuments
from tunesmith.data.prepare import prepare

__all__ = ["Data", "TokenizedDocuments", "prepare"]
