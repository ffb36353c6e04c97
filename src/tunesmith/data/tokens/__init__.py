"""Rendered rows become token arrays, documents and optimizer steps.

encode.py words.py workers.py    rows -> ids and masks, fast, on every core
tokenize.py long.py              a split -> arrays, resumable; documents that are longer than max_length
documents.py                     TokenizedDocuments and Data, the values that later stages read
asked.py                         prompts for a run, as its conversations were
steps.py                         documents -> optimizer steps and micro-batches
"""
