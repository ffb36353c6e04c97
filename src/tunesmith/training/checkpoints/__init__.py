"""What a run keeps, so that nothing is lost.

checkpoint.py    whole or absent; state.py: bit for bit; shards.py: each process its share; writers.py: who writes
saves.py         what a checkpoint holds; best.py: the best weights beside it
resume.py        whether a run may go on, and from which checkpoint; mirror.py: copies at another place
saving.py        the tuned model written, in the type of its base where that loses nothing
"""
