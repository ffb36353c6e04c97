"""A run on disk. Nothing here imports torch.

directory.py   every artefact's name, reader and writer
lock.py        one writer a run; signals.py: a stop that loses nothing
table.py       several runs side by side
"""
