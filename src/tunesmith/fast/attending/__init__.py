"""Attention that no document leaves.

attention.py    over documents of any length; options.py: its settings
varlen.py       the CUDA kernel for it
cached.py       one token of several texts, over keys and values in fixed places
rope.py         rotary embeddings that depend on a document's length
"""
