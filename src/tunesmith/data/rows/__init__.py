"""Rows become pieces of text, some of them learned.

pieces.py     a rendered row; spec.py: what a row is: text, prompt and completion, or chat
template.py   templates over columns; chat.py: turns by the model's chat template
columns.py    columns that a recipe names, checked before anything slow begins
reading.py    one pass over all tables; ledger.py counts; spool.py keeps the rendered rows on disk
"""
