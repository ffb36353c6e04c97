"""Rows become pieces of text, some of them learned.

pieces.py     a rendered row; spec.py: what a row is: text, prompt and completion, or chat
template.py   templates over columns; columns.py: those that a recipe names, checked before anything slow begins
turns.py      turns and tools as people write them; controls.py: control tokens in them stay characters
chat.py       turns to text by the model's chat template, and which of it is learned
reading.py    one pass over all tables; ledger.py counts; spool.py keeps the rendered rows on disk
"""
